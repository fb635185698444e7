//! Addresses of the documentation, for the texts that bearerd writes.

/// The folder of the documentation. `runbook_url` of the alerts in `deploy/prometheus` begins with it too.
pub const FOLDER: &str = "https://github.com/bearerd/bearerd/blob/main/docs";

/// The address of the heading about a code: that of an error response, or the reason of a credential's state.
pub fn of_code(code: &str) -> String {
    format!("{FOLDER}/operate/troubleshooting.md#{code}")
}

/// The address of the book's front page.
pub fn front_page() -> String {
    format!("{FOLDER}/README.md")
}

/// The address of the section about warnings of `bearerd check`.
pub fn of_warnings() -> String {
    format!("{FOLDER}/operate/commands.md#warnings-about-values")
}

/// The address of the section about the store that replicas share.
pub fn of_shared_store() -> String {
    format!("{FOLDER}/deploy/replicas.md#the-store")
}

/// The address of the heading about an exit code.
pub fn of_exit_code(code: u8) -> String {
    format!("{FOLDER}/operate/troubleshooting.md#exit-code-{code}")
}

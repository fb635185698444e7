//! `bearerd man`: the manual page, or a page for each command.

use std::io;
use std::path::{Path, PathBuf};

use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, italic, roman};

use super::exit_code::{FAILED, OK};
use super::output;

/// The text below the options of `--help`.
pub(super) const HELP: &str = "\
Read the page without installing it, or install the pages of all commands:

  bearerd man | man -l -
  bearerd man --out /usr/local/share/man/man1";

#[derive(Debug, clap::Args)]
pub(super) struct Pages {
    /// Write bearerd.1 and a page for each command, such as bearerd-run.1, to this folder
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// The exit codes of all commands.
const EXIT_CODES: [(&str, &str); 5] = [
    (
        "0",
        "Success: stopped as asked, healthy, valid, done, or (of \"explain\") the request would be forwarded.",
    ),
    (
        "1",
        "Failure: a port in use, unhealthy, a refused operation, or (of \"explain\") a request that would be refused. \
         Also output that cannot be written.",
    ),
    ("2", "Invalid arguments."),
    ("69", "The daemon cannot be reached."),
    ("78", "The configuration is invalid or cannot be read."),
];

const VARIABLES: [(&str, &str); 7] = [
    ("BEARERD_CONFIG", "The path of the configuration, where -c is absent."),
    (
        "BEARERD_<SECTION>__<KEY>",
        "Overrides a key of the configuration: BEARERD_SERVER__LISTEN, BEARERD_CREDENTIALS__<NAME>__CLIENT_ID. Lists and \
         tables are written as TOML. The keys of routes cannot be overridden.",
    ),
    ("RUST_LOG", "The levels of the log, such as \"bearerd=debug,info\"."),
    ("NO_COLOR", "If not empty, diagnostics have no colours."),
    (
        "HTTPS_PROXY, NO_PROXY",
        "The forward proxy of token endpoints and upstreams that have no key \"proxy\".",
    ),
    ("SSL_CERT_FILE", "Certificate authorities in the place of the system's."),
    (
        "Others",
        "A secret that is written as { env = \"NAME\" } in the configuration is read from the variable of that name.",
    ),
];

const FILES: [(&str, &str); 3] = [
    ("./proxy.toml", "The configuration, where neither -c nor BEARERD_CONFIG names another."),
    ("/etc/bearerd/proxy.toml", "The configuration, where there is no ./proxy.toml."),
    ("{server.state_dir}/{name}.state", "The state of a credential: its tokens, encrypted, and its waits."),
];

/// Prints the manual page of the whole command, or writes a page for each command.
pub(super) fn man(pages: &Pages, command: clap::Command) -> u8 {
    let Some(folder) = &pages.out else {
        output::bytes(&whole(command));
        return OK;
    };
    match write_all(folder, command) {
        Ok(count) => {
            output::line(format_args!("{}: {count} pages", folder.display()));
            OK
        }
        Err(error) => {
            output::error_line(format_args!("bearerd: {}: {error}", folder.display()));
            FAILED
        }
    }
}

/// One page about all commands.
fn whole(mut command: clap::Command) -> Vec<u8> {
    command = command.disable_help_subcommand(true);
    command.build();
    let man = man_of(command.clone());
    let mut page = beginning(&man);
    for each in command.get_subcommands() {
        let mut roff = Roff::new();
        roff.control("SH", [format!("BEARERD {}", each.get_name().to_uppercase()).as_str()]);
        roff.text([roman(each.get_about().map(ToString::to_string).unwrap_or_default())]);
        append(&mut page, |page| roff.to_writer(page));
        let man = man_of(each.clone());
        // These sections of the command become parts of its section in the page.
        let mut parts = Vec::new();
        append(&mut parts, |page| man.render_synopsis_section(page));
        append(&mut parts, |page| man.render_options_section(page));
        parts.extend(notes(each));
        let parts = String::from_utf8_lossy(&parts);
        let part = |line: &str| line.strip_prefix(".SH").map(|rest| format!(".SS{rest}"));
        for line in parts.lines() {
            page.extend_from_slice(part(line).as_deref().unwrap_or(line).as_bytes());
            page.push(b'\n');
        }
    }
    page.extend(ending(&man));
    page
}

/// The page of one command.
fn single(command: &clap::Command) -> Vec<u8> {
    let man = man_of(command.clone());
    let mut page = beginning(&man);
    if command.has_subcommands() {
        append(&mut page, |page| man.render_subcommands_section(page));
    }
    page.extend(notes(command));
    page.extend(ending(&man));
    page
}

/// The text below the options of `--help`: indented lines are shown as they are.
fn notes(command: &clap::Command) -> Vec<u8> {
    let mut page = Vec::new();
    let Some(text) = command.get_after_help().map(ToString::to_string) else { return page };
    let mut roff = Roff::new();
    roff.control("SH", ["NOTES"]);
    let mut is_example = false;
    for line in text.lines() {
        let is_indented = line.starts_with("  ");
        match (is_example, is_indented) {
            (false, true) => roff.control("nf", []),
            (true, false) => roff.control("fi", []),
            _ => &mut roff,
        };
        is_example = is_indented;
        if line.is_empty() {
            roff.control("PP", [])
        } else {
            roff.text([roman(line)])
        };
    }
    if is_example {
        roff.control("fi", []);
    }
    append(&mut page, |page| roff.to_writer(page));
    page
}

fn man_of(command: clap::Command) -> Man {
    Man::new(command).manual("bearerd").source(format!("bearerd {}", crate::version::VERSION))
}

fn beginning(man: &Man) -> Vec<u8> {
    let mut page = Vec::new();
    append(&mut page, |page| man.render_title(page));
    append(&mut page, |page| man.render_name_section(page));
    append(&mut page, |page| man.render_synopsis_section(page));
    append(&mut page, |page| man.render_description_section(page));
    append(&mut page, |page| man.render_options_section(page));
    page
}

/// What holds for all commands.
fn ending(man: &Man) -> Vec<u8> {
    let mut roff = Roff::new();
    let lists: [(&str, &[(&str, &str)]); 3] =
        [("EXIT STATUS", &EXIT_CODES), ("ENVIRONMENT", &VARIABLES), ("FILES", &FILES)];
    for (heading, entries) in lists {
        roff.control("SH", [heading]);
        for (name, meaning) in entries {
            roff.control("TP", []);
            roff.text([if heading == "FILES" { italic(*name) } else { bold(*name) }]);
            roff.text([roman(*meaning)]);
        }
    }
    let mut page = Vec::new();
    append(&mut page, |page| roff.to_writer(page));
    append(&mut page, |page| man.render_version_section(page));
    page
}

/// Appends what `render` writes; a vector takes everything.
fn append(page: &mut Vec<u8>, render: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) {
    if let Err(error) = render(page) {
        output::error_line(format_args!("bearerd: {error}"));
    }
}

/// Writes all pages, and returns how many there are.
fn write_all(folder: &Path, mut command: clap::Command) -> io::Result<usize> {
    command = command.disable_help_subcommand(true);
    command.build();
    std::fs::create_dir_all(folder)?;
    let write = |name: &str, page: &[u8]| std::fs::write(folder.join(format!("{name}.1")), page);
    write(command.get_name(), &single(&command))?;
    let mut count = 1;
    for each in command.get_subcommands() {
        write(&format!("{}-{}", command.get_name(), each.get_name()), &single(each))?;
        count += 1;
    }
    Ok(count)
}

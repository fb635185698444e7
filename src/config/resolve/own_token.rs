//! The place of the admin token that the daemon makes itself.

use std::path::{Path, PathBuf};

use toml::Spanned;

use crate::config::model::admin::TOKEN_FILE;
use crate::config::source::key::Key;
use crate::config::source::schema;

/// The file of the daemon's own admin token: in `server.state_dir` or, without it, in the folder of the first state
/// file by the names of the credentials. `None` with a configured token, or without a state. Every credential that
/// accepts a grant has a state.
pub(in crate::config) fn path(file: &schema::File, folder: &Path) -> Option<PathBuf> {
    let may_have_own = match &file.admin {
        Key::Absent => true,
        Key::Refused => false,
        Key::Written(admin) => admin.get_ref().token.is_absent(),
    };
    let written = |path: &Key<PathBuf>| {
        let path = path.usable().map(Spanned::get_ref).filter(|path| !path.as_os_str().is_empty())?;
        Some(folder.join(path))
    };
    let state_dir = file.server.usable().and_then(|server| written(&server.get_ref().state_dir));
    let state_folder = || {
        let credentials = file.credentials.usable()?.get_ref().0.values();
        let state_file = credentials.flatten().find_map(|one| written(&one.get_ref().state_file))?;
        state_file.parent().map(Path::to_owned)
    };
    let folder = if may_have_own { state_dir.or_else(state_folder)? } else { return None };
    Some(folder.join(TOKEN_FILE))
}

//! The admin token that the daemon makes itself, in a file that only the daemon's own user can read.
//!
//! Whoever can read the file is an operator. The file stays over restarts. A symlink in its place is not followed, and a
//! file that other users could read is replaced by one with another token.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;

use aws_lc_rs::rand;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustix::fs::{
    Access, AtFlags, CWD, FileType, Mode, OFlags, RenameFlags, accessat, fchmod, fstat, fsync, openat,
    renameat, renameat_with, unlinkat,
};
use rustix::io::Errno;
use secrecy::zeroize::Zeroizing;
use secrecy::{ExposeSecret, SecretString};
use thiserror::Error;

use crate::judged_as::{JudgedAs, check_owner, is_this_user};

/// Bytes of randomness in a token.
const TOKEN_BYTES: usize = 32;
/// The largest file that is read.
const MAX_BYTES: u64 = 1024;
/// The shortest token that is accepted: 16 random bytes in base64 without padding.
const MIN_CHARS: usize = 22;
/// The permission bits of other users than the owner.
const OTHERS: u32 = 0o077;
const OWNER_ONLY: Mode = Mode::RUSR.union(Mode::WUSR);
/// How often the file is looked for, while other daemons make and remove it.
const ATTEMPTS: usize = 4;

/// The daemon's own token.
#[derive(Debug)]
pub struct OwnToken {
    /// The token.
    pub secret: SecretString,
    /// The permissions of a file that other users could read, which has been replaced; `None` without such a file.
    pub replaced: Option<u32>,
    /// Why the token is in no file, so that nobody can show it; `None` unless the disk is full.
    pub not_written: Option<io::Error>,
}

/// The file cannot be used.
#[derive(Debug, Error)]
pub enum TokenFileError {
    /// The folder cannot be opened.
    #[error("its folder cannot be opened")]
    Folder(#[source] io::Error),
    /// The file is a symlink.
    #[error("it is a symlink, which is not followed")]
    Symlink,
    /// The file is no regular file.
    #[error("it is no regular file")]
    NotRegular,
    /// The file belongs to another user.
    #[error("it belongs to the user {0}")]
    Owner(u32),
    /// The content is no token.
    #[error("it does not hold one token of at least 22 printable characters without spaces")]
    NotAToken,
    /// The file cannot be read.
    #[error("it cannot be read")]
    Unreadable(#[source] io::Error),
    /// The file cannot be written.
    #[error("it cannot be written")]
    NotWritten(#[source] io::Error),
    /// The file system does not keep the permissions.
    #[error("the file system does not keep it private")]
    NotPrivate,
}

impl TokenFileError {
    /// The remedy.
    pub const fn help(&self) -> &'static str {
        match self {
            Self::Folder(_) | Self::NotWritten(_) => {
                "create the folder for the daemon's user alone, or set `admin.token`: without either, every process of \
                 this machine could replace a grant"
            }
            Self::Symlink | Self::NotRegular | Self::NotAToken => {
                "remove it: the daemon then makes a new one; or set `admin.token`"
            }
            Self::Owner(_) | Self::Unreadable(_) => {
                "remove it, or run this command as the daemon's user; or set `admin.token`"
            }
            Self::NotPrivate => "set `admin.token`, or keep the state on another file system",
        }
    }
}

/// An open file.
struct TokenFile {
    file: File,
    mode: u32,
    owner: u32,
}

/// What is in the place of the file.
enum Found {
    Nothing,
    Token(SecretString),
    /// A file of the daemon's user with these permissions, which others could read.
    Readable(u32),
}

/// The token in the file, or a new one. A full disk must not keep a daemon from its work: the token is then in no file.
///
/// # Errors
///
/// [`TokenFileError`]; the file has not changed.
pub fn open_or_create(path: &Path) -> Result<OwnToken, TokenFileError> {
    let (folder, name) = folder_of(path)?;
    let user = JudgedAs::ThisUser.user(&folder).map_err(TokenFileError::Folder)?;
    for _ in 0..ATTEMPTS {
        let replaced = match look(&folder, name, user)? {
            Found::Token(secret) => return Ok(OwnToken { secret, replaced: None, not_written: None }),
            Found::Nothing => None,
            Found::Readable(mode) => Some(mode),
        };
        let secret = random()?;
        match create(&folder, name, replaced.is_some(), &secret) {
            Ok(true) => return Ok(OwnToken { secret, replaced, not_written: None }),
            // Another daemon has made the file meanwhile.
            Ok(false) => {}
            Err(TokenFileError::NotWritten(error)) if is_full(&error) => {
                return Ok(OwnToken { secret, replaced: None, not_written: Some(error) });
            }
            Err(error) => return Err(error),
        }
    }
    Err(TokenFileError::NotWritten(ErrorKind::WouldBlock.into()))
}

/// Whether [`open_or_create`] could return a token to a daemon of this user. Changes nothing.
///
/// # Errors
///
/// As of [`open_or_create`].
pub fn check(path: &Path, user: JudgedAs) -> Result<(), TokenFileError> {
    let (folder, name) = folder_of(path)?;
    let user = user.user(&folder).map_err(TokenFileError::Folder)?;
    if matches!(look(&folder, name, user)?, Found::Token(_)) {
        return Ok(());
    }
    if !is_this_user(user) {
        let status = fstat(&folder).map_err(|error| TokenFileError::Folder(error.into()))?;
        return check_owner(&status, user, Mode::WUSR | Mode::XUSR).map_err(TokenFileError::NotWritten);
    }
    let may_write = accessat(&folder, ".", Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS);
    may_write.map_err(|error| TokenFileError::NotWritten(error.into()))
}

/// The token in the file, for a command; `None` without a file. The file may belong to another user, as root may read it.
///
/// # Errors
///
/// The file is no token, or cannot be read.
pub fn read(path: &Path) -> Result<Option<SecretString>, TokenFileError> {
    let (folder, name) = match folder_of(path) {
        Err(TokenFileError::Folder(error)) if error.kind() == ErrorKind::NotFound => return Ok(None),
        folder => folder?,
    };
    open(&folder, name)?.map(|found| token_in(found.file)).transpose()
}

fn folder_of(path: &Path) -> Result<(OwnedFd, &OsStr), TokenFileError> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = openat(CWD, folder.unwrap_or_else(|| Path::new(".")), flags, Mode::empty());
    let folder = folder.map_err(|error| TokenFileError::Folder(error.into()))?;
    Ok((folder, path.file_name().unwrap_or_default()))
}

/// The file, if it is there and regular.
fn open(folder: &OwnedFd, name: &OsStr) -> Result<Option<TokenFile>, TokenFileError> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match openat(folder, name, flags, Mode::empty()) {
        Ok(file) => file,
        Err(Errno::NOENT) => return Ok(None),
        Err(Errno::LOOP) => return Err(TokenFileError::Symlink),
        // The error of opening a socket.
        Err(Errno::NXIO) => return Err(TokenFileError::NotRegular),
        Err(error) => return Err(TokenFileError::Unreadable(error.into())),
    };
    let status = fstat(&file).map_err(|error| TokenFileError::Unreadable(error.into()))?;
    if FileType::from_raw_mode(status.st_mode) != FileType::RegularFile {
        return Err(TokenFileError::NotRegular);
    }
    let mode = Mode::from_raw_mode(status.st_mode).bits();
    Ok(Some(TokenFile { file: File::from(file), mode, owner: status.st_uid }))
}

/// What a daemon of this user finds.
fn look(folder: &OwnedFd, name: &OsStr, user: u32) -> Result<Found, TokenFileError> {
    let Some(TokenFile { file, mode, owner }) = open(folder, name)? else { return Ok(Found::Nothing) };
    if owner != user {
        return Err(TokenFileError::Owner(owner));
    }
    if mode & OTHERS != 0 {
        return Ok(Found::Readable(mode));
    }
    token_in(file).map(Found::Token)
}

fn token_in(file: File) -> Result<SecretString, TokenFileError> {
    let mut text = Zeroizing::new(String::new());
    file.take(MAX_BYTES).read_to_string(&mut text).map_err(|error| match error.kind() {
        ErrorKind::InvalidData => TokenFileError::NotAToken,
        _ => TokenFileError::Unreadable(error),
    })?;
    let token = text.strip_suffix('\n').unwrap_or(&text);
    if token.len() < MIN_CHARS || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(TokenFileError::NotAToken);
    }
    Ok(SecretString::from(token))
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

fn random() -> Result<SecretString, TokenFileError> {
    let mut bytes = Zeroizing::new([0; TOKEN_BYTES]);
    let none = |_| TokenFileError::NotWritten(io::Error::other("the system has no random numbers"));
    rand::fill(&mut *bytes).map_err(none)?;
    Ok(SecretString::from(URL_SAFE_NO_PAD.encode(*bytes)))
}

/// Writes a new token beside the file and renames it; `false` if a file is there by then and must not be replaced.
fn create(
    folder: &OwnedFd,
    name: &OsStr,
    replaces: bool,
    token: &SecretString,
) -> Result<bool, TokenFileError> {
    let failed = |error: io::Error| TokenFileError::NotWritten(error);
    let temporary = temporary_name(name);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat(folder, &temporary, flags, OWNER_ONLY).map_err(|error| failed(error.into()))?;
    let mut file = File::from(file);
    let mut renamed = || -> Result<bool, TokenFileError> {
        fchmod(&file, OWNER_ONLY).map_err(|error| failed(error.into()))?;
        let mode = fstat(&file).map_err(|error| failed(error.into()))?.st_mode;
        if Mode::from_raw_mode(mode).bits() & OTHERS != 0 {
            return Err(TokenFileError::NotPrivate);
        }
        file.write_all(token.expose_secret().as_bytes())
            .and_then(|()| file.write_all(b"\n"))
            .map_err(failed)?;
        file.sync_all().map_err(failed)?;
        match rename(folder, &temporary, name, replaces) {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) => Ok(false),
            Err(error) => Err(failed(error.into())),
        }
    };
    let renamed = renamed();
    if !matches!(renamed, Ok(true)) {
        // A temporary file that stays holds a token that nobody uses.
        let _ = unlinkat(folder, &temporary, AtFlags::empty());
    }
    // The next start makes another token if this file is lost in a power cut.
    let _ = fsync(folder);
    renamed
}

fn rename(folder: &OwnedFd, from: &OsStr, to: &OsStr, replaces: bool) -> Result<(), Errno> {
    if !replaces {
        match renameat_with(folder, from, folder, to, RenameFlags::NOREPLACE) {
            // The file system does not know the flag.
            Err(Errno::INVAL | Errno::NOSYS) => {}
            outcome => return outcome,
        }
    }
    renameat(folder, from, folder, to)
}

/// A random name: the temporary file of an earlier attempt may still exist.
fn temporary_name(name: &OsStr) -> OsString {
    let mut temporary = OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{:016x}.tmp", fastrand::u64(..)));
    temporary
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    fn opened(path: &Path) -> (String, Option<u32>) {
        let OwnToken { secret, replaced, .. } = open_or_create(path).unwrap();
        (secret.expose_secret().to_owned(), replaced)
    }

    #[test]
    fn a_token_is_made_once_and_only_its_owner_can_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.token");
        assert!(read(&path).unwrap().is_none());
        check(&path, JudgedAs::ThisUser).unwrap();
        assert!(!path.exists(), "a check makes nothing");

        let (token, replaced) = opened(&path);

        assert_eq!((mode(&path), replaced), (0o600, None));
        assert_eq!(URL_SAFE_NO_PAD.decode(&token).unwrap().len(), 32);
        assert_eq!(opened(&path), (token.clone(), None));
        assert_eq!(read(&path).unwrap().unwrap().expose_secret(), token);
        let names = fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(names, 1, "no temporary file stays");

        fs::remove_file(&path).unwrap();
        assert_ne!(opened(&path).0, token);
    }

    #[test]
    fn a_token_that_others_could_read_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.token");
        let mut known = opened(&path).0;
        for wrong in [0o644, 0o640, 0o620, 0o604, 0o601] {
            fs::set_permissions(&path, fs::Permissions::from_mode(wrong)).unwrap();
            check(&path, JudgedAs::ThisUser).unwrap();

            let (token, replaced) = opened(&path);

            assert_eq!((replaced, mode(&path)), (Some(wrong), 0o600));
            assert_ne!(std::mem::replace(&mut known, token.clone()), token, "{wrong:o}");
        }
    }

    #[test]
    fn a_symlink_or_another_file_is_refused_and_stays() {
        let folder = tempfile::tempdir().unwrap();
        let (path, target) = (folder.path().join("admin.token"), folder.path().join("target"));
        fs::write(&target, "x".repeat(43)).unwrap();
        fs::set_permissions(&target, fs::Permissions::from_mode(0o600)).unwrap();
        symlink(&target, &path).unwrap();
        for outcome in
            [open_or_create(&path).map(drop), check(&path, JudgedAs::ThisUser), read(&path).map(drop)]
        {
            assert!(matches!(outcome, Err(TokenFileError::Symlink)), "{outcome:?}");
        }
        fs::remove_file(&path).unwrap();
        // Also one that leads nowhere, or to a file that does not exist yet.
        symlink(folder.path().join("none"), &path).unwrap();
        assert!(matches!(open_or_create(&path), Err(TokenFileError::Symlink)));
        assert!(!folder.path().join("none").exists());
        fs::remove_file(&path).unwrap();

        fs::create_dir(&path).unwrap();
        assert!(matches!(open_or_create(&path), Err(TokenFileError::NotRegular)));
        fs::remove_dir(&path).unwrap();

        for content in ["", "short", "two words of sufficient length", "tökentökentökentökentöken"] {
            fs::write(&path, content).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            let error = open_or_create(&path).unwrap_err();
            assert!(matches!(error, TokenFileError::NotAToken), "{content}: {error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
        }
        let nowhere = folder.path().join("nowhere/admin.token");
        assert!(matches!(check(&nowhere, JudgedAs::ThisUser), Err(TokenFileError::Folder(_))));
        assert!(read(&nowhere).unwrap().is_none());
    }

    #[test]
    fn daemons_that_start_at_once_have_one_token() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.token");
        let tokens: Vec<String> = std::thread::scope(|scope| {
            let daemons: Vec<_> = (0..8).map(|_| scope.spawn(|| opened(&path).0)).collect();
            daemons.into_iter().map(|daemon| daemon.join().unwrap()).collect()
        });
        assert!(tokens.iter().all(|token| *token == tokens[0]), "the tokens differ");
    }
}

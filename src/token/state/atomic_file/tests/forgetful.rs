//! A disk in memory that keeps only what was synced, and of the rest whatever it likes.
//!
//! A power cut leaves the changes of names since the last sync of the folder up to any one of them, and of a file's
//! content since its last sync any beginning, or zeros. Real file systems promise more.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::{self, ErrorKind};

use crate::token::state::disk::{Disk, Status};

type Names = BTreeMap<OsString, usize>;

#[derive(Clone, Debug, Default)]
pub(super) struct ForgetfulDisk {
    files: RefCell<Vec<Content>>,
    names: RefCell<Names>,
    /// The names after each change since they were last synced, the synced ones first.
    history: RefCell<Vec<Names>>,
}

#[derive(Clone, Debug, Default)]
struct Content {
    bytes: Vec<u8>,
    synced: Vec<u8>,
}

/// An open file, and how much of it has been read.
#[derive(Debug)]
pub(super) struct OpenFile {
    file: usize,
    read: Cell<usize>,
}

impl ForgetfulDisk {
    /// All that may be found after a power cut.
    pub(super) fn worlds_after_a_power_cut(&self) -> Vec<Self> {
        let mut histories = self.history.borrow().clone();
        if histories.is_empty() {
            histories.push(Names::new());
        }
        let longest = self.files.borrow().iter().map(|file| file.bytes.len()).max().unwrap_or_default();
        let lossy = |keep: &dyn Fn(&Content) -> Vec<u8>| {
            let files = self.files.borrow();
            let kept =
                |file: &Content| if file.synced == file.bytes { file.bytes.clone() } else { keep(file) };
            files.iter().map(kept).collect::<Vec<Vec<u8>>>()
        };
        let mut contents = vec![lossy(&|file| file.synced.clone()), lossy(&|file| vec![0; file.bytes.len()])];
        contents.extend(
            (0..=longest).map(|keep| lossy(&|file| file.bytes[..keep.min(file.bytes.len())].to_vec())),
        );
        let world = |names: &Names, contents: &Vec<Vec<u8>>| {
            let whole = |bytes: &Vec<u8>| Content { bytes: bytes.clone(), synced: bytes.clone() };
            Self {
                files: RefCell::new(contents.iter().map(whole).collect()),
                names: RefCell::new(names.clone()),
                history: RefCell::new(vec![names.clone()]),
            }
        };
        histories
            .iter()
            .flat_map(|names| contents.iter().map(move |contents| world(names, contents)))
            .collect()
    }

    fn change_names(&self, change: impl FnOnce(&mut Names)) {
        let mut history = self.history.borrow_mut();
        if history.is_empty() {
            history.push(Names::new());
        }
        change(&mut self.names.borrow_mut());
        history.push(self.names.borrow().clone());
    }
}

impl Disk for &ForgetfulDisk {
    type File = OpenFile;

    fn names(&self) -> io::Result<Vec<OsString>> {
        Ok(self.names.borrow().keys().cloned().collect())
    }

    fn open(&self, name: &OsStr) -> io::Result<OpenFile> {
        let file = self.names.borrow().get(name).copied().ok_or(ErrorKind::NotFound)?;
        Ok(OpenFile { file, read: Cell::new(0) })
    }

    fn status(&self, file: &OpenFile) -> io::Result<Status> {
        let bytes = self.files.borrow()[file.file].bytes.len() as u64;
        Ok(Status { is_regular: true, bytes, mode: 0o600, other_owner: None })
    }

    fn read(&self, file: &mut OpenFile, buffer: &mut [u8]) -> io::Result<usize> {
        let files = self.files.borrow();
        let rest = &files[file.file].bytes[file.read.get()..];
        let length = rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        file.read.set(file.read.get() + length);
        Ok(length)
    }

    fn create(&self, name: &OsStr) -> io::Result<OpenFile> {
        if self.names.borrow().contains_key(name) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        let file = self.files.borrow().len();
        self.files.borrow_mut().push(Content::default());
        self.change_names(|names| {
            names.insert(name.to_owned(), file);
        });
        Ok(OpenFile { file, read: Cell::new(0) })
    }

    fn write(&self, file: &mut OpenFile, bytes: &[u8]) -> io::Result<usize> {
        self.files.borrow_mut()[file.file].bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn sync(&self, file: &OpenFile) -> io::Result<()> {
        let content = &mut self.files.borrow_mut()[file.file];
        content.synced = content.bytes.clone();
        Ok(())
    }

    fn rename(&self, from: &OsStr, to: &OsStr) -> io::Result<()> {
        self.change_names(|names| {
            let file = names.remove(from).unwrap();
            names.insert(to.to_owned(), file);
        });
        Ok(())
    }

    fn sync_folder(&self) -> io::Result<()> {
        *self.history.borrow_mut() = vec![self.names.borrow().clone()];
        Ok(())
    }

    fn remove(&self, name: &OsStr) -> io::Result<()> {
        self.change_names(|names| {
            names.remove(name);
        });
        Ok(())
    }
}

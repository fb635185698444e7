//! A disk whose calls are counted, and one of which fails or is the last the process makes.

use std::cell::RefCell;
use std::ffi::{OsStr, OsString};
use std::io;

use rustix::io::Errno;

use crate::token::state::disk::{Disk, Status};

/// So that a content takes several writes, of which each may be the last.
const WRITE_BYTES: usize = 100;

/// The results of the calls of a write, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// They succeed.
    Well,
    /// The process dies before this one.
    DieBefore(usize),
    /// The process dies after this one.
    DieAfter(usize),
    /// This one fails.
    FailOnce(usize, Errno),
    /// This one and all after it fail.
    FailFrom(usize, Errno),
}

#[derive(Debug)]
pub(super) struct Unreliable<D> {
    disk: D,
    plan: Plan,
    status: Option<Status>,
    calls: RefCell<Vec<&'static str>>,
    created: RefCell<Vec<OsString>>,
}

impl<D: Disk> Unreliable<D> {
    pub(super) fn new(disk: D, plan: Plan) -> Self {
        Self { disk, plan, status: None, calls: RefCell::default(), created: RefCell::default() }
    }

    /// The status to report for every file.
    pub(super) fn with_status(self, status: Status) -> Self {
        Self { status: Some(status), ..self }
    }

    /// The calls that a write has made so far; a dead process makes none.
    pub(super) fn calls(&self) -> Vec<&'static str> {
        self.calls.borrow().clone()
    }

    /// The names of the files that were to be made.
    pub(super) fn created(&self) -> Vec<OsString> {
        self.created.borrow().clone()
    }

    fn call<T>(&self, name: &'static str, act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let at = self.calls.borrow().len();
        let is_dead = match self.plan {
            Plan::DieBefore(last) => at >= last,
            Plan::DieAfter(last) => at > last,
            _ => false,
        };
        if is_dead {
            return Err(io::Error::other("the process is dead"));
        }
        self.calls.borrow_mut().push(name);
        match self.plan {
            Plan::FailOnce(failing, errno) if at == failing => Err(errno.into()),
            Plan::FailFrom(failing, errno) if at >= failing => Err(errno.into()),
            _ => act(),
        }
    }
}

impl<D: Disk> Disk for &Unreliable<D> {
    type File = D::File;

    fn names(&self) -> io::Result<Vec<OsString>> {
        self.disk.names()
    }

    fn open(&self, name: &OsStr) -> io::Result<Self::File> {
        self.disk.open(name)
    }

    fn status(&self, file: &Self::File) -> io::Result<Status> {
        self.status.map_or_else(|| self.disk.status(file), Ok)
    }

    fn read(&self, file: &mut Self::File, buffer: &mut [u8]) -> io::Result<usize> {
        self.disk.read(file, buffer)
    }

    fn create(&self, name: &OsStr) -> io::Result<Self::File> {
        self.created.borrow_mut().push(name.to_owned());
        self.call("create", || self.disk.create(name))
    }

    fn write(&self, file: &mut Self::File, bytes: &[u8]) -> io::Result<usize> {
        let some = &bytes[..bytes.len().min(WRITE_BYTES)];
        self.call("write", || self.disk.write(file, some))
    }

    fn sync(&self, file: &Self::File) -> io::Result<()> {
        self.call("sync", || self.disk.sync(file))
    }

    fn rename(&self, from: &OsStr, to: &OsStr) -> io::Result<()> {
        self.call("rename", || self.disk.rename(from, to))
    }

    fn sync_folder(&self) -> io::Result<()> {
        self.call("sync_folder", || self.disk.sync_folder())
    }

    fn remove(&self, name: &OsStr) -> io::Result<()> {
        self.call("remove", || self.disk.remove(name))
    }
}

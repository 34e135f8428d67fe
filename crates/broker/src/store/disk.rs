//! The file system as the store uses it: a seam, so that tests can fail or cut any operation.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::path::Path;
use std::sync::Arc;

/// A file that is read and written at given places, by several threads at once.
pub(crate) trait DiskFile: Send + Sync {
    /// Writes some of `bytes`, and returns how many.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize>;
    /// Reads some bytes; 0 at the end of the file.
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Returns when everything written is on the disk, and the length that it needs.
    fn sync(&self) -> io::Result<()>;
    fn set_length(&self, length: u64) -> io::Result<()>;
    fn length(&self) -> io::Result<u64>;
}

/// A file system. Every path given to it is inside of the store's directory, or is that directory.
pub(crate) trait Disk: Send + Sync {
    /// Creates the directory, for its owner only, if it does not exist; durably.
    fn create_directory(&self, directory: &Path) -> io::Result<()>;
    /// Creates a file that must not exist, for its owner only.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    /// Names of all files in the directory.
    fn list(&self, directory: &Path) -> io::Result<Vec<String>>;
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Returns when creations, renames and removals in the directory are on the disk.
    fn sync_directory(&self, directory: &Path) -> io::Result<()>;
    /// Locks a file until the value that is returned is dropped; `WouldBlock` if it is locked already.
    fn lock(&self, path: &Path) -> io::Result<Arc<dyn Send + Sync>>;
    /// Bytes that this user can still write to the file system of the directory.
    fn room(&self, directory: &Path) -> io::Result<u64>;
}

/// The file system of the machine.
#[derive(Debug)]
pub(crate) struct RealDisk;

impl Disk for RealDisk {
    fn create_directory(&self, directory: &Path) -> io::Result<()> {
        use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
        if directory.is_dir() {
            // An existing directory may be somebody's own choice of rights for a group; the store's files are 0600 in any case.
            return Ok(());
        }
        let missing: Vec<_> = directory.ancestors().take_while(|ancestor| !ancestor.exists()).collect();
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        // `mode` is subject to the process's umask, which may leave the owner without rights.
        std::fs::set_permissions(directory, PermissionsExt::from_mode(0o700))?;
        // Guards: after loss of power each of them must be found in its parent.
        for created in missing.into_iter().filter(|created| !created.as_os_str().is_empty()) {
            match created.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => self.sync_directory(parent)?,
                _ => self.sync_directory(Path::new("."))?,
            }
        }
        Ok(())
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        use std::os::unix::fs::OpenOptionsExt;
        Ok(Arc::new(OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(OpenOptions::new().read(true).write(true).open(path)?))
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(directory)? {
            // A name that is not UTF-8 is not one of the store's.
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        match File::open(directory)?.sync_all() {
            // Some file systems cannot sync a directory; what they do is as durable as it gets.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
            other => other,
        }
    }

    fn lock(&self, path: &Path) -> io::Result<Arc<dyn Send + Sync>> {
        Ok(Arc::new(super::lock::lock(path)?))
    }

    fn room(&self, directory: &Path) -> io::Result<u64> {
        let system = rustix::fs::statvfs(directory)?;
        Ok(system.f_bavail.saturating_mul(system.f_frsize))
    }
}

impl DiskFile for File {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        std::os::unix::fs::FileExt::write_at(self, bytes, offset)
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        std::os::unix::fs::FileExt::read_at(self, bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.set_len(length)
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }
}

impl dyn DiskFile + '_ {
    /// Writes everything, or fails.
    pub(crate) fn write_all_at(&self, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.write_at(bytes, offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    bytes = &bytes[written..];
                    offset += written as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Fills the buffer as far as the file goes, and returns how far that was.
    pub(crate) fn read_up_to_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut filled = 0;
        while filled < bytes.len() {
            match self.read_at(&mut bytes[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }
}

//! Which supervisor it is: one for a store and the names on the broker, or of a name of its own. And where its files are.
//!
//! The lock and the log are beside the store, where every command of every session finds them. The socket is in the user's
//! runtime directory, and the lock names it: a command that has other surroundings (cron, su, another login) finds it all the
//! same.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::args::{Global, Names};
use crate::failure::Failure;
use crate::output::quoted;
use crate::{places, settings};

#[derive(Clone, Debug)]
pub(super) struct Identity {
    store: PathBuf,
    /// Of the names alone.
    names: u64,
}

impl Identity {
    /// The supervisor of a store, whose file may be moved away.
    ///
    /// # Errors
    /// When its directory is not there; `Usage` for an empty name.
    pub(super) fn new(store: &Path, names: &Names, name: Option<&str>) -> Result<Self, Failure> {
        if name == Some("") {
            return Err(Failure::Usage("--name is empty; give a name, or leave it out".to_owned()));
        }
        // Several paths may lead to one store.
        let store = canonical(store)
            .map_err(|error| Failure::Other(format!("there is no store {}: {error}", store.display())))?;
        let names = match name {
            Some(name) => hash(["name", name]),
            None => hash(
                [&names.prefix, &names.message_exchange, &names.task_exchange, &names.task_queue]
                    .map(|name| name.as_deref().unwrap_or_default()),
            ),
        };
        Ok(Identity { store, names })
    }

    pub(super) fn store(&self) -> &Path {
        &self.store
    }

    /// The file of the lock.
    pub(super) fn lock_file(&self) -> PathBuf {
        self.beside_store("")
    }

    /// Where a supervisor in the background writes its log.
    pub(super) fn log_file(&self) -> PathBuf {
        self.beside_store(".log")
    }

    fn beside_store(&self, ending: &str) -> PathBuf {
        let mut file = OsString::from(&self.store);
        file.push(format!(".workers-{:016x}{ending}", self.names));
        file.into()
    }

    /// The name of the socket's file, which is another one for each store.
    pub(super) fn socket_name(&self) -> String {
        let mut all = self.names.to_le_bytes().to_vec();
        all.extend(self.store.as_os_str().as_bytes());
        format!("workers-{:016x}.sock", fnv(&all))
    }
}

/// The one path of a file, of which at least the directory is there.
fn canonical(file: &Path) -> io::Result<PathBuf> {
    let name = file.file_name();
    match (fs::canonicalize(file), name) {
        (Err(error), Some(name)) if error.kind() == io::ErrorKind::NotFound => {
            let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            Ok(fs::canonicalize(folder)?.join(name))
        }
        (found, _) => found,
    }
}

/// A hash of texts, none of which is a part of another.
fn hash<const N: usize>(texts: [&str; N]) -> u64 {
    let mut all = Vec::new();
    for text in texts {
        all.extend((text.len() as u64).to_le_bytes());
        all.extend(text.as_bytes());
    }
    fnv(&all)
}

/// FNV-1a: the same in every version of this program, which Rust's own hashes do not promise.
pub(crate) fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// How a command about this supervisor is typed: `homing --prefix p workers status --store jobs.db`.
pub(super) fn typed(global: &Global, command: &str, store: Option<&Path>, name: Option<&str>) -> String {
    let store = store.map(|store| store.display().to_string());
    let behind = [("--store", store.as_deref()), ("--name", name)];
    let mut text = format!("{} {command}", settings::with_names(global));
    for (option, value) in behind.into_iter().filter_map(|(option, value)| Some((option, value?))) {
        text.push_str(&format!(" {option} {}", quoted(value)));
    }
    text
}

/// Directories for the socket, the best first: the user's runtime directory, and one of our own.
pub(crate) fn socket_directories() -> Vec<PathBuf> {
    let own = PathBuf::from(format!("/tmp/homing-{}", nix::unistd::geteuid()));
    let runtime = places::variable("XDG_RUNTIME_DIR").filter(|folder| folder.is_absolute() && folder.is_dir());
    runtime.map(|folder| folder.join("homing")).into_iter().chain([own]).collect()
}

/// Makes a directory that only its owner can enter, or takes one that is like that.
///
/// # Errors
/// When it cannot be made, or is somebody else's, or others can enter it.
pub(crate) fn own_directory(folder: &Path) -> std::io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        made => return made,
    }
    // Not of what a link leads to.
    let there = fs::symlink_metadata(folder)?;
    if !there.is_dir() || there.uid() != nix::unistd::geteuid().as_raw() || there.mode() & 0o077 != 0 {
        return Err(std::io::Error::other("it is there, and is no directory of this user alone (chmod 700)"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_supervisor_is_known_by_its_store_and_names() {
        let folder = std::env::temp_dir().join(format!("homing-identity-{}", crate::mark::draw()));
        fs::create_dir_all(folder.join("sub")).unwrap();
        for file in ["a.db", "b.db"] {
            fs::write(folder.join(file), "").unwrap();
        }
        std::os::unix::fs::symlink(folder.join("a.db"), folder.join("link.db")).unwrap();
        let of = |file: &str, prefix: Option<&str>, name: Option<&str>| {
            let names = Names { prefix: prefix.map(str::to_owned), ..Names::default() };
            let identity = Identity::new(&folder.join(file), &names, name).unwrap();
            (identity.lock_file(), identity.socket_name())
        };
        let one = of("a.db", Some("p"), None);
        for same in [of("link.db", Some("p"), None), of("sub/../a.db", Some("p"), None)] {
            assert_eq!(same, one);
        }
        let others = [
            of("a.db", None, None),
            of("a.db", Some("q"), None),
            of("a.db", Some("p"), Some("p")),
            of("b.db", Some("p"), None),
        ];
        for (n, other) in others.iter().enumerate() {
            assert!(other.0 != one.0 && other.1 != one.1, "{n}");
            assert!(others[..n].iter().all(|earlier| earlier.0 != other.0 && earlier.1 != other.1), "{n}");
        }
        assert_eq!(of("a.db", Some("p"), Some("x")), of("a.db", None, Some("x")), "a name stands for itself");
        assert!(Identity::new(&folder.join("a.db"), &Names::default(), Some("")).is_err());
        fs::rename(folder.join("a.db"), folder.join("away.db")).unwrap();
        assert_eq!(of("a.db", Some("p"), None), one, "its store is moved away");
        assert!(Identity::new(&folder.join("nowhere/a.db"), &Names::default(), None).is_err());
        assert_ne!(hash(["ab", "c"]), hash(["a", "bc"]));
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_directory_that_others_can_enter_is_refused() {
        let folder = std::env::temp_dir().join(format!("homing-own-{}", crate::mark::draw()));
        own_directory(&folder).unwrap();
        own_directory(&folder).unwrap();
        assert_eq!(fs::metadata(&folder).unwrap().mode() & 0o777, 0o700);
        let link = folder.join("link");
        std::os::unix::fs::symlink(&folder, &link).unwrap();
        assert!(own_directory(&link).is_err(), "a link may lead anywhere");
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o750)).unwrap();
        assert!(own_directory(&folder).is_err());
        fs::remove_dir_all(folder).unwrap();
    }
}

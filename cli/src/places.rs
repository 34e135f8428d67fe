//! Where the files of this command are: by its variables, else in the user's directories.

use std::path::PathBuf;

use crate::failure::Failure;

/// A path from the environment. An empty variable counts as none.
pub(crate) fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// This file in our directory under that of the XDG variable, whose default is below the home directory.
///
/// # Errors
/// `Usage` when there is no home to look in; `option` gives the file.
pub(crate) fn own_file(xdg: &str, under_home: &str, file: &str, option: &str) -> Result<PathBuf, Failure> {
    variable(xdg)
        .filter(|folder| folder.is_absolute())
        .or_else(|| variable("HOME").map(|home| home.join(under_home)))
        .map(|folder| folder.join("homing").join(file))
        .ok_or_else(|| Failure::Usage(format!("neither HOME nor {xdg} is set; give the file by {option}")))
}

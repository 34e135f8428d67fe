//! Shell completions and manual pages, built from what the command line knows.

use std::path::Path;

use clap::CommandFactory;
use clap_mangen::Man;

use crate::args::{Cli, Man as Options};
use crate::failure::Failure;
use crate::note;
use crate::output::write_out;

pub(crate) fn completions(shell: clap_complete::Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "homing", &mut script);
    write_out(&script)
}

pub(crate) fn pages(options: Options) -> Result<(), Failure> {
    let mut command = Cli::command();
    command.build();
    let Some(folder) = options.out else {
        return write_out(&page(command)?);
    };
    let cannot = |error| Failure::Other(format!("the pages cannot be written to {}: {error}", folder.display()));
    std::fs::create_dir_all(&folder).map_err(cannot)?;
    let written = write_all(&command, "homing", &folder)?;
    note!("{written} pages in {}", folder.display());
    Ok(())
}

/// Writes the page of a command, and of each command below it. How many were written.
fn write_all(command: &clap::Command, name: &str, folder: &Path) -> Result<usize, Failure> {
    let titled = command.clone().display_name(name.to_owned());
    let file = folder.join(format!("{name}.1"));
    let page = page(titled)?;
    std::fs::write(&file, page)
        .map_err(|error| Failure::Other(format!("{} cannot be written: {error}", file.display())))?;
    let mut written = 1;
    for below in command.get_subcommands().filter(|below| below.get_name() != "help" && !below.is_hide_set()) {
        written += write_all(below, &format!("{name}-{}", below.get_name()), folder)?;
    }
    Ok(written)
}

fn page(command: clap::Command) -> Result<Vec<u8>, Failure> {
    let mut page = Vec::new();
    Man::new(command).render(&mut page)?;
    Ok(page)
}

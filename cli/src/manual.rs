//! Shell completions and manual pages, built from what the command line knows.

use std::path::Path;

use clap::builder::Resettable;
use clap_mangen::Man;

use crate::args::{Man as Options, command};
use crate::failure::Failure;
use crate::note;
use crate::output::write_out;

pub(crate) fn completions(shell: clap_complete::Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command(), "homing", &mut script);
    write_out(&script)
}

pub(crate) fn pages(options: Options) -> Result<(), Failure> {
    let mut command = command();
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
    let passages = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let mut page = Vec::new();
    // Guards: one section EXTRA, in which paragraphs and tables run into each other.
    Man::new(command.after_help(Resettable::Reset)).render(&mut page)?;
    page.extend_from_slice(sections(&passages).as_bytes());
    Ok(page)
}

/// The passages behind the help, as sections of a manual page. A head has no indent and ends with a colon; a row of a table has
/// two spaces behind its key, and goes on where the indent is deep.
fn sections(passages: &str) -> String {
    let mut page = String::new();
    for line in passages.lines() {
        let text = line.trim();
        let indent = line.len() - line.trim_start().len();
        page += &match (indent, text.strip_suffix(':'), text.split_once("  ")) {
            (0, Some(head), _) => format!(".SH {}\n", quoted(&heading(head))),
            (_, _, Some((key, rest))) => format!(".TP\n\\fB{}\\fR\n{}\n", escaped(key), escaped(rest.trim())),
            (5.., ..) => format!("{}\n", escaped(text)),
            _ => format!(".PP\n{}\n", escaped(text)),
        };
    }
    page
}

/// In capitals, as the other headings of a page, but for an option: `--EXEC` is none.
fn heading(text: &str) -> String {
    let word = |word: &str| if word.starts_with('-') { word.to_owned() } else { word.to_uppercase() };
    text.split(' ').map(word).collect::<Vec<_>>().join(" ")
}

/// An argument of a request of roff.
fn quoted(text: &str) -> String {
    format!("\"{}\"", escaped(text).replace('"', "\\(dq"))
}

/// Text in which roff finds nothing to do.
fn escaped(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-").replace('\'', "\\(aq");
    if text.starts_with('.') { format!("\\&{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_passage_of_the_help_is_a_section_with_its_table() {
        let of = |command: clap::Command| String::from_utf8(page(command).expect("a page")).expect("UTF-8");
        let first = of(command());
        for part in
            [".SH \"EXIT CODES\"\n.TP\n\\fB0\\fR\ndone; also", ".TP\n\\fB7\\fR\naccess refused", ".PP\nA command about"]
        {
            assert!(first.contains(part), "{part} is not in: {first}");
        }
        let mut all = command();
        all.build();
        let mut pages = 0;
        for group in all.get_subcommands() {
            for below in group.get_subcommands().chain([group]) {
                let page = of(below.clone());
                assert!(!page.contains(".SH EXTRA"), "{page}");
                pages += 1;
            }
        }
        assert!(pages > 60, "{pages}");
    }

    #[test]
    fn nothing_in_a_text_is_a_request_of_roff() {
        assert_eq!(escaped(".it's a \\ --x"), "\\&.it\\(aqs a \\e \\-\\-x");
        assert_eq!(heading("The command of --exec"), "THE COMMAND OF --exec");
        assert_eq!(quoted("a \"b\""), "\"a \\(dqb\\(dq\"");
    }
}

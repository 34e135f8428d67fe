//! `homing broker start` and `homing broker unit`: a broker in the background, by this command or by the system's own manager of services.

use std::ffi::OsString;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::config::{self, Settings, Storage};
use super::{control, serve};
use crate::args::{BrokerRun, BrokerStart, BrokerUnit, Format, Global};
use crate::failure::Failure;
use crate::stop::Stop;
use crate::supervise::detach;
use crate::supervise::lifeline::{self, Lifeline};
use crate::{out, output};

/// Starts a broker in the background, and returns when clients can connect.
pub(super) async fn start(options: BrokerStart, global: &Global, stop: Stop) -> Result<(), Failure> {
    if options.detached {
        // It does not end with its starter.
        let starter = Lifeline::of_this_process(stop.clone())?.0;
        detach::leave_session();
        let served = async { serve(config::settings(options.run)?, Some(starter), global, stop).await };
        return served.await.inspect_err(|failure| lifeline::failed(&failure.to_string()));
    }
    let settings = config::settings(options.run)?;
    if settings.storage == Storage::Nothing {
        return Err(Failure::Usage(
            "one that keeps nothing has no directory to be found by; use `homing broker run`".to_owned(),
        ));
    }
    let data = super::data(settings.data)?;
    if let Some(control::Response::Status(status)) = control::ask(&data, &control::Request::Status).await? {
        return Err(Failure::Other(format!("broker {} runs on {} already", status.pid, data.display())));
    }
    let made = DirBuilder::new().recursive(true).mode(0o700).create(&data);
    made.map_err(|error| Failure::Other(format!("the directory {} cannot be made: {error}", data.display())))?;
    let log = options.log.unwrap_or_else(|| data.join("broker.log"));
    let pid = detach::start(&log, "broker", stop).await?;
    let listening = match control::ask(&data, &control::Request::Status).await? {
        Some(control::Response::Status(status)) => status.listening,
        _ => Vec::new(),
    };
    match global.output.format {
        Format::Json => out!("{}", json!({"pid": pid, "log": log, "listening": listening})),
        Format::Text => {
            for place in listening {
                out!("listening on {}", output::without_controls(&place))?;
            }
            out!(
                "broker {pid} runs in the background, its log is {}",
                output::without_controls(&log.display().to_string())
            )
        }
    }
}

/// Prints the file by which the system's manager of services keeps a broker running.
pub(super) fn unit(options: &BrokerUnit) -> Result<(), Failure> {
    let program = std::env::current_exe()?;
    let mut arguments = vec![program.into_os_string(), "broker".into(), "run".into()];
    let settings = config::settings(options.run.clone())?;
    arguments.extend(typed(&options.run, &settings)?);
    let mut words = Vec::new();
    for argument in arguments {
        let word = argument.into_string();
        words.push(word.map_err(|word| Failure::Usage(format!("{word:?} is no UTF-8, which such a file has to be")))?);
    }
    let is_launchd = options.launchd || (cfg!(target_os = "macos") && !options.systemd);
    let stop_after = settings.drain.as_secs().saturating_add(30);
    let reload = if settings.tls_cert.is_some() { "ExecReload=/bin/kill -HUP $MAINPID\n" } else { "" };
    let text = if is_launchd { launchd(&words, stop_after) } else { systemd(&words, reload, stop_after) };
    output::write_out(text.as_bytes())
}

/// The options as they are typed; those of the file stay there.
fn typed(run: &BrokerRun, settings: &Settings) -> Result<Vec<OsString>, Failure> {
    let absolute = |path: &Path| -> Result<OsString, Failure> { Ok(std::path::absolute(path)?.into_os_string()) };
    let mut typed: Vec<OsString> = Vec::new();
    if let Some(file) = &run.config {
        typed.extend(["--config".into(), absolute(file)?]);
    }
    for address in &run.listen {
        typed.extend(["--listen".into(), address.to_string().into()]);
    }
    for address in &run.http {
        typed.extend(["--http".into(), address.to_string().into()]);
    }
    for (option, file) in [("--tls-cert", &run.tls_cert), ("--tls-key", &run.tls_key), ("--tls-ca", &run.tls_ca)] {
        if let Some(file) = file {
            typed.extend([option.into(), absolute(file)?]);
        }
    }
    if let Some(socket) = &run.socket {
        typed.extend(["--socket".into(), absolute(socket)?]);
    }
    match settings.storage {
        Storage::Nothing if run.memory => typed.push("--memory".into()),
        Storage::Nothing => {}
        // The variable and the home that lead to it are this user's.
        Storage::Disk => {
            let data: PathBuf = super::data(settings.data.clone())?;
            typed.extend(["--data".into(), absolute(&data)?]);
        }
    }
    if let Some(limit) = run.memory_limit {
        typed.extend(["--memory-limit".into(), limit.to_string().into()]);
    }
    if let Some(drain) = run.drain {
        typed.extend(["--drain".into(), drain.as_secs_f64().to_string().into()]);
    }
    Ok(typed)
}

fn systemd(words: &[String], reload: &str, stop_after: u64) -> String {
    let quoted: Vec<String> = words.iter().map(|word| for_systemd(word)).collect();
    format!(
        "# ~/.config/systemd/user/homing-broker.service; then: systemctl --user enable --now homing-broker\n\
         [Unit]\n\
         Description=A message broker for this machine (homing)\n\
         \n\
         [Service]\n\
         Type=exec\n\
         ExecStart={}\n\
         {reload}\
         Restart=on-failure\n\
         # Time to close its connections and its store in order.\n\
         TimeoutStopSec={stop_after}\n\
         LimitNOFILE=65536\n\
         NoNewPrivileges=yes\n\
         \n\
         [Install]\n\
         WantedBy=default.target\n",
        quoted.join(" ")
    )
}

/// A word of a command line as systemd reads it.
fn for_systemd(word: &str) -> String {
    let escaped =
        word.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%").replace('$', "$$").replace('\n', "\\n");
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=%[]".contains(c);
    if !word.is_empty() && escaped.chars().all(is_plain) { escaped } else { format!("\"{escaped}\"") }
}

fn launchd(words: &[String], stop_after: u64) -> String {
    let escaped = |word: &String| word.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let strings: Vec<String> = words.iter().map(|word| format!("    <string>{}</string>\n", escaped(word))).collect();
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <!-- ~/Library/LaunchAgents/homing.broker.plist; then: launchctl load -w that file -->\n\
         <!DOCTYPE plist PUBLIC \"-//Apple//DTD PLIST 1.0//EN\" \"http://www.apple.com/DTDs/PropertyList-1.0.dtd\">\n\
         <plist version=\"1.0\">\n\
         <dict>\n  <key>Label</key>\n  <string>homing.broker</string>\n  <key>ProgramArguments</key>\n  <array>\n{}  </array>\n  \
         <key>RunAtLoad</key>\n  <true/>\n  <key>KeepAlive</key>\n  <dict>\n    <key>SuccessfulExit</key>\n    <false/>\n  </dict>\n  \
         <key>ExitTimeOut</key>\n  <integer>{stop_after}</integer>\n</dict>\n</plist>\n",
        strings.concat()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_as_their_readers_read_them() {
        for (word, quoted) in [
            ("/usr/bin/homing", "/usr/bin/homing"),
            ("[::1]:5672", "[::1]:5672"),
            ("", "\"\""),
            ("a b", "\"a b\""),
            ("100%", "100%%"),
            ("$HOME", "\"$$HOME\""),
            ("a\"b\\c", "\"a\\\"b\\\\c\""),
            ("a;b", "\"a;b\""),
        ] {
            assert_eq!(for_systemd(word), quoted);
        }
        let text = launchd(&["/a & b".to_owned(), "<x>".to_owned()], 35);
        assert!(text.contains("<string>/a &amp; b</string>") && text.contains("<string>&lt;x&gt;</string>"), "{text}");
        assert!(text.contains("<integer>35</integer>"), "{text}");
    }
}

//! The tests of the Python package, by pytest: one trial a file of `python/tests`. They run on the library as it was built for
//! this program, which lies beside it.
//!
//! `HOMING_TEST_PYTHON` is an interpreter that has pytest and kiwipy. Without it the trials are skipped, or fail where
//! `HOMING_TEST_REQUIRE=1` says that nothing may be missing.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Failed, Trial};

/// How long one file may take, on a machine that does much else; with `HOMING_TEST_FULL=1` one of them takes ten minutes.
fn limit() -> Duration {
    let is_full = std::env::var("HOMING_TEST_FULL").is_ok_and(|value| value == "1");
    Duration::from_secs(if is_full { 1500 } else { 400 })
}

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let python = std::env::var("HOMING_TEST_PYTHON").ok();
    let is_required = std::env::var("HOMING_TEST_REQUIRE").is_ok_and(|value| value == "1");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files: Vec<PathBuf> = std::fs::read_dir(root.join("tests"))
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("test_") && name.ends_with(".py")
        })
        .collect();
    files.sort();
    assert!(!files.is_empty(), "no tests in {}", root.display());
    let package = package(root);
    let trials = files.into_iter().map(|file| {
        let name = format!("python::{}", file.file_stem().unwrap_or_default().to_string_lossy());
        let (python, package) = (python.clone(), package.clone());
        let is_absent = python.is_none() && !is_required;
        Trial::test(name, move || {
            let python = python.ok_or("HOMING_TEST_PYTHON is not set")?;
            run(&python, &package.map_err(|error| format!("the package cannot be put together: {error}"))?, &file)
        })
        .with_ignored_flag(is_absent)
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

/// A folder from which `homing` is imported: the Python files as they are, and the library of this build.
fn package(root: &Path) -> Result<PathBuf, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let built = program.parent().ok_or("the program is nowhere")?;
    let library = built.join(format!("{}homing_python{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX));
    if !library.exists() {
        return Err(format!("{} is not there", library.display()));
    }
    let folder = built.join("python-package");
    let package = folder.join("homing");
    std::fs::create_dir_all(&package).map_err(|error| error.to_string())?;
    let mut links = vec![(library, package.join("_native.abi3.so"))];
    let sources = std::fs::read_dir(root.join("homing")).map_err(|error| error.to_string())?;
    for source in sources.filter_map(Result::ok) {
        let is_source = source.file_name() != "__pycache__" && !source.file_name().to_string_lossy().ends_with(".so");
        if is_source {
            links.push((source.path(), package.join(source.file_name())));
        }
    }
    for (target, link) in links {
        // Two runs at once make the same links.
        if std::fs::read_link(&link).is_ok_and(|known| known == target) {
            continue;
        }
        let fresh = folder.join(format!(".{}-{}", std::process::id(), link.file_name().unwrap_or_default().display()));
        let made = std::os::unix::fs::symlink(&target, &fresh).and_then(|()| std::fs::rename(&fresh, &link));
        made.map_err(|error| format!("{}: {error}", link.display()))?;
    }
    Ok(folder)
}

fn run(python: &str, package: &Path, file: &Path) -> Result<(), Failed> {
    let output = tempfile(file)?;
    let writes = std::fs::File::create(&output).map_err(|error| error.to_string())?;
    let errors = writes.try_clone().map_err(|error| error.to_string())?;
    let mut child = Command::new(python)
        .args(["-X", "faulthandler", "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "--tb=short"])
        .arg(file)
        // Not the folder of the sources, which would be found first.
        .current_dir(package)
        .env("PYTHONPATH", package)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(std::process::Stdio::null())
        .stdout(writes)
        .stderr(errors)
        .spawn()
        .map_err(|error| format!("{python}: {error}"))?;
    let until = Instant::now() + limit();
    let status = loop {
        if let Some(status) = child.try_wait().map_err(|error| error.to_string())? {
            break Some(status);
        }
        if Instant::now() > until {
            // It has not hung by itself: pytest's own limit shows where, unless the interpreter is stuck.
            let _ = child.kill();
            let _ = child.wait();
            break None;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let text = std::fs::read_to_string(&output).unwrap_or_default();
    let _ = std::fs::remove_file(&output);
    println!("{text}");
    match status {
        Some(status) if status.success() => Ok(()),
        Some(status) => Err(format!("pytest: {status}\n{text}").into()),
        None => Err(format!("not done after {:?}\n{text}", limit()).into()),
    }
}

fn tempfile(file: &Path) -> Result<PathBuf, String> {
    let name = file.file_stem().ok_or("a file without a name")?.to_string_lossy();
    Ok(std::env::temp_dir().join(format!("homing-python-{}-{name}.log", std::process::id())))
}

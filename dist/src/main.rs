//! Puts together what a release is: the module, in two forms that registries take, and all that is read or run beside it.
//!
//! Its one rule: the same module gives the same bytes on any machine at any time: no clock, no name of a user or a host, no
//! order of a folder's entries.
//! It does not build the module, and publishes nothing.
#![expect(clippy::indexing_slicing, reason = "only JSON is indexed, by names: what is not there is null")]

mod crates;
mod gateway;
mod licences;
mod oci;
mod sbom;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use crates::Package;
use oci::hex;

/// What the module is called everywhere.
const MODULE: &str = "envoy_idempotency.wasm";
/// Files of the repository that go along as they are.
const AS_THEY_ARE: [&str; 5] =
    ["LICENSE", "CHANGELOG.md", "docs/config.schema.json", "deploy/alerts.yaml", "deploy/grafana.json"];
const PROGRAMS: [&str; 2] = ["check-config", "idempotencyctl"];
const HELP: &str =
    "dist MODULE FOLDER [PROGRAMS]: writes a release of MODULE, and of the programs in PROGRAMS, to FOLDER";

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let written = match arguments.as_slice() {
        [module, folder] => write(module, folder, None),
        [module, folder, programs] => write(module, folder, Some(programs)),
        _ => Err(HELP.to_owned()),
    };
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("dist: {why}");
            ExitCode::from(2)
        }
    }
}

/// Writes the release to the folder, which afterwards holds nothing else.
fn write(module: &Path, folder: &Path, programs: Option<&Path>) -> Result<(), String> {
    let bytes = read(module)?;
    if folder.exists() {
        fs::remove_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    }
    put(folder, MODULE, &bytes)?;
    put(folder, &format!("{MODULE}.sha256"), format!("{}  {MODULE}\n", hex(&bytes)).as_bytes())?;
    let packages = crates::of("envoy-idempotency", crates::WASM)?;
    let own = packages.first().ok_or("the module's own package is not among its packages")?;
    oci::write_image(&folder.join("image"), &bytes, own)?;
    oci::write_artifact(&folder.join("artifact"), &bytes, own)?;
    describe(folder, "envoy_idempotency", &bytes, &packages, crates::WASM)?;
    put(folder, "envoy.yaml", gateway::loading(&hex(&bytes))?.as_bytes())?;
    for path in AS_THEY_ARE {
        let text = read(&crates::root().join(path))?;
        put(folder, path.rsplit('/').next().unwrap_or(path), &text)?;
    }
    if let Some(from) = programs {
        for program in PROGRAMS {
            add_program(folder, from, program)?;
        }
    }
    let sums = sums(folder)?;
    put(folder, "SHA256SUMS", sums.as_bytes())
}

/// What is in something that is shipped, and under which licences.
fn describe(folder: &Path, name: &str, bytes: &[u8], packages: &[Package], target: &str) -> Result<(), String> {
    let tools = crates::tools(target)?;
    put(folder, &format!("{name}.cdx.json"), sbom::of(packages, &hex(bytes), target, &tools).as_bytes())?;
    put(folder, &format!("{name}.licences.txt"), licences::of(packages, target)?.as_bytes())
}

/// A program, what is in it, and what its readers and shells want of it.
fn add_program(folder: &Path, from: &Path, name: &str) -> Result<(), String> {
    let (host, into) = (crates::host()?, folder.join("programs"));
    let (program, bytes) = (into.join(name), read(&from.join(name))?);
    put(&into, name, &bytes)?;
    make_executable(&program)?;
    describe(&into, name, &bytes, &crates::of(name, &host)?, &host)?;
    if name == "idempotencyctl" {
        let written = |arguments: &[&str]| crates::output(Command::new(&program).args(arguments));
        put(&into, "idempotencyctl.1", written(&["man"])?.as_bytes())?;
        for shell in ["bash", "zsh", "fish"] {
            put(&into, &format!("idempotencyctl.{shell}"), written(&["completions", shell])?.as_bytes())?;
        }
    }
    Ok(())
}

/// The SHA-256 of every file, by its path, as `sha256sum --check` reads them.
fn sums(folder: &Path) -> Result<String, String> {
    let (mut folders, mut files) = (vec![folder.to_owned()], Vec::new());
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).map_err(|error| format!("{}: {error}", next.display()))? {
            let path = entry.map_err(|error| error.to_string())?.path();
            if path.is_dir() { &mut folders } else { &mut files }.push(path);
        }
    }
    files.sort();
    let line = |file: &PathBuf| {
        let shown = file.strip_prefix(folder).unwrap_or(file).display();
        Ok(format!("{}  {shown}\n", hex(&read(file)?)))
    };
    files.iter().map(line).collect()
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|error| format!("{} cannot be read: {error}", path.display()))
}

/// Writes a file, and the folder that it goes to.
fn put(folder: &Path, name: &str, bytes: &[u8]) -> Result<(), String> {
    fs::create_dir_all(folder)
        .and_then(|()| fs::write(folder.join(name), bytes))
        .map_err(|error| format!("{} cannot be written: {error}", folder.join(name).display()))
}

fn make_executable(program: &Path) -> Result<(), String> {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(program, fs::Permissions::from_mode(0o755))
        .map_err(|error| format!("{}: {error}", program.display()))
}

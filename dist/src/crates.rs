//! Which packages are in what is shipped, as cargo tells it.
//!
//! Its one rule: what is listed is what cargo compiles into this target, no more (what only runs while it is built) and no
//! less.
//! It does not know what is written about them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// The target of the module.
pub const WASM: &str = "wasm32-wasip1";

/// A package in what is shipped.
pub struct Package {
    pub name: String,
    pub version: String,
    pub description: String,
    /// An SPDX expression.
    pub licence: String,
    /// Where its sources lie.
    pub folder: PathBuf,
    /// The SHA-256 that Cargo.lock has of it; none for a package of this repository.
    pub checksum: Option<String>,
}

impl Package {
    /// How databases of packages name it.
    pub fn purl(&self) -> String {
        format!("pkg:cargo/{}@{}", self.name, self.version)
    }
}

/// The packages in this one, for this target; itself first, then by name.
pub fn of(package: &str, target: &str) -> Result<Vec<Package>, String> {
    let details = details()?;
    let mut tree = cargo(["tree", "--package", package, "--target", target, "--prefix", "none"]);
    tree.args(["--edges", "normal,no-proc-macro", "--no-dedupe", "--format", "{p}"]);
    let listed = output(&mut tree)?;
    let mut names: Vec<_> = listed.lines().map(|line| line.split_once(" (").map_or(line, |(name, _)| name)).collect();
    let own = names.first().copied().unwrap_or_default();
    names.sort_unstable();
    names.dedup();
    names.sort_by_key(|name| *name != own);
    let known = |name: &str| details.get(name).ok_or_else(|| format!("cargo's metadata has no package {name:?}"));
    let checksums = checksums()?;
    let package = |name: &str| {
        let found = known(name)?;
        let text = |member: &str| found[member].as_str().unwrap_or_default().to_owned();
        let manifest = PathBuf::from(text("manifest_path"));
        Ok(Package {
            name: text("name"),
            version: text("version"),
            description: text("description").split_whitespace().collect::<Vec<_>>().join(" "),
            // Cargo took a slash for OR once.
            licence: text("license").replace('/', " OR "),
            folder: manifest.parent().map(Path::to_owned).unwrap_or_default(),
            checksum: checksums.get(name).cloned(),
        })
    };
    names.into_iter().map(package).collect()
}

/// What cargo knows of each package, by "name vVERSION".
fn details() -> Result<BTreeMap<String, Value>, String> {
    let mut metadata = cargo(["metadata", "--format-version", "1"]);
    let told: Value =
        serde_json::from_str(&output(&mut metadata)?).map_err(|error| format!("cargo metadata: {error}"))?;
    let packages = told["packages"].as_array().into_iter().flatten();
    let name = |package: &Value| {
        format!("{} v{}", package["name"].as_str().unwrap_or_default(), package["version"].as_str().unwrap_or_default())
    };
    Ok(packages.map(|package| (name(package), package.clone())).collect())
}

/// The checksums of Cargo.lock, by "name vVERSION".
fn checksums() -> Result<BTreeMap<String, String>, String> {
    let lock = String::from_utf8(crate::read(&root().join("Cargo.lock"))?).map_err(|error| error.to_string())?;
    let field = |entry: &str, name: &str| {
        let line = entry.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(" = \""))?;
        Some(line.trim_end_matches('"').to_owned())
    };
    let entries = lock.split("[[package]]").filter_map(|entry| {
        Some((format!("{} v{}", field(entry, "name")?, field(entry, "version")?), field(entry, "checksum")?))
    });
    Ok(entries.collect())
}

/// What has made it, by name and version.
pub fn tools(target: &str) -> Result<Vec<(String, String)>, String> {
    let mut tools = vec![("rustc".to_owned(), rustc()?)];
    if target == WASM {
        let said = output(Command::new("wasm-opt").arg("--version"))?;
        let version = said.split_whitespace().last().unwrap_or_default().trim_matches(['(', ')']);
        tools.push(("wasm-opt".to_owned(), version.to_owned()));
    }
    Ok(tools)
}

/// The version of the compiler, which is that of the standard library too.
pub fn rustc() -> Result<String, String> {
    let said = output(Command::new("rustc").arg("--version"))?;
    Ok(said.split_whitespace().nth(1).unwrap_or_default().to_owned())
}

/// The target that this machine is.
pub fn host() -> Result<String, String> {
    Ok(output(Command::new("rustc").args(["--print", "host-tuple"]))?.trim().to_owned())
}

/// Where the compiler lies.
pub fn sysroot() -> Result<PathBuf, String> {
    Ok(output(Command::new("rustc").args(["--print", "sysroot"]))?.trim().into())
}

/// The folder of the repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

fn cargo<const N: usize>(arguments: [&str; N]) -> Command {
    let mut command = Command::new("cargo");
    command.args(arguments).arg("--locked").current_dir(root());
    command
}

/// What a program writes, if it ends well.
pub fn output(command: &mut Command) -> Result<String, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|error| format!("{name} cannot be started: {error}"))?;
    if !output.status.success() {
        return Err(format!("{name} failed: {}", String::from_utf8_lossy(&output.stderr).trim()));
    }
    String::from_utf8(output.stdout).map_err(|error| format!("{name}: {error}"))
}

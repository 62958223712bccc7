//! Everything that evidence runs, built once with the feature `planted-bugs`: the bug is chosen by the run, so one build
//! serves all of them.
//!
//! The build goes into the usual target directory: the feature reaches our own crates only, so everything foreign (RocksDB
//! above all) is there already. What is selected decides the features of foreign crates, so this package is always
//! selected: its dependencies in tests together want what the whole workspace wants, and without them RocksDB would be
//! compiled again. Selecting the whole workspace would be simpler and would link the unit tests of every library.
//!
//! Programs are built as tests are, with the features that tests want of foreign crates: otherwise each of our own crates
//! would be compiled once for the tests and once more for the programs.

use crate::evidence::{Evidence, Means};
use anyhow::{Context, Result, bail};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const FEATURE: &str = "tidemark-runtime/planted-bugs";
/// Selected beside what is needed; see the module. The first is the owner of the feature.
const ALWAYS: [&str; 2] = ["tidemark-runtime", "tidemark-mutants"];
/// Whose program the simulation's is.
const SIMULATION_PACKAGE: &str = "tidemark-simulation";
/// A small test of this package: that it is built, too, makes the build one of tests.
const SMALL_TEST: &str = "page";
/// The simulation's program.
const SIMULATION: &str = "tidemark-simulate";

/// A built program and the directory in which cargo would start it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// The file.
    pub path: PathBuf,
    /// Its package's directory.
    pub dir: PathBuf,
}

/// The programs, by package and target; a library's tests have the target `None`.
#[derive(Clone, Debug, Default)]
pub struct Binaries {
    tests: BTreeMap<(String, Option<String>), Program>,
    simulation: Option<Program>,
}

impl Binaries {
    /// Builds what that evidence needs; cargo's progress goes to standard error.
    pub fn build(root: &Path, all: &[Evidence]) -> Result<Binaries> {
        let needs = Needs::of(all);
        let mut binaries = Binaries::default();
        if !needs.packages.is_empty() {
            binaries.read(&cargo(root, &needs.test_arguments())?);
        }
        if needs.seeds {
            binaries.read(&cargo(root, &needs.program_arguments())?);
        }
        for evidence in all {
            if binaries.program(&evidence.means).is_none() {
                bail!("cargo built nothing for {}", evidence.means.name());
            }
        }
        Ok(binaries)
    }

    /// The program that runs that evidence.
    pub fn program(&self, means: &Means) -> Option<&Program> {
        match means {
            Means::Test { package, target, .. } => {
                let key = ((*package).to_owned(), target.map(str::to_owned));
                self.tests.get(&key)
            }
            Means::Seeds { .. } => self.simulation.as_ref(),
        }
    }

    /// Reads cargo's messages, one JSON document a line.
    fn read(&mut self, messages: &str) {
        for message in messages.lines() {
            let Ok(message) = serde_json::from_str::<Message>(message) else {
                continue;
            };
            let (Some(package), Some(path)) = (message.package(), message.executable) else {
                continue;
            };
            let dir = message.manifest_path.parent().unwrap_or(Path::new(".")).to_owned();
            let program = Program { path, dir };
            match message.target.kind.first().map(String::as_str) {
                Some("lib") if message.profile.test => {
                    self.tests.insert((package, None), program);
                }
                Some("test") => {
                    self.tests.insert((package, Some(message.target.name)), program);
                }
                Some("bin") if !message.profile.test && message.target.name == SIMULATION => {
                    self.simulation = Some(program);
                }
                _ => {}
            }
        }
    }
}

/// What a set of evidence needs built.
#[derive(Debug, Default, PartialEq, Eq)]
struct Needs {
    packages: BTreeSet<&'static str>,
    libraries: bool,
    files: BTreeSet<&'static str>,
    seeds: bool,
}

impl Needs {
    fn of(all: &[Evidence]) -> Needs {
        let mut needs = Needs::default();
        for evidence in all {
            match evidence.means {
                Means::Test { package, target, .. } => {
                    needs.packages.insert(package);
                    needs.libraries |= target.is_none();
                    needs.files.extend(target);
                }
                Means::Seeds { .. } => needs.seeds = true,
            }
        }
        needs
    }

    /// `cargo test` would make a test of the program itself.
    fn program_arguments(&self) -> Vec<String> {
        let mut arguments = vec!["build", "--locked", "--features", FEATURE, "--test", SMALL_TEST];
        arguments.extend(["--bin", SIMULATION]);
        for package in self.packages.iter().chain(&ALWAYS).chain([&SIMULATION_PACKAGE]) {
            arguments.extend(["-p", *package]);
        }
        arguments.into_iter().map(str::to_owned).collect()
    }

    fn test_arguments(&self) -> Vec<String> {
        let mut arguments = vec!["test", "--no-run", "--locked", "--features", FEATURE];
        for package in self.packages.iter().chain(&ALWAYS) {
            arguments.extend(["-p", *package]);
        }
        if self.libraries {
            arguments.push("--lib");
        }
        for file in &self.files {
            arguments.extend(["--test", *file]);
        }
        arguments.into_iter().map(str::to_owned).collect()
    }
}

/// Runs cargo and returns its messages.
fn cargo(root: &Path, arguments: &[String]) -> Result<String> {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    eprintln!("==> cargo {}", arguments.join(" "));
    let output = Command::new(program)
        .args(arguments)
        .arg("--message-format=json-render-diagnostics")
        .current_dir(root)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("cargo cannot be started")?;
    if !output.status.success() {
        bail!("the build with planted bugs failed: nothing was tried");
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The part of cargo's `compiler-artifact` message that is read.
#[derive(Debug, serde::Deserialize)]
struct Message {
    package_id: String,
    manifest_path: PathBuf,
    target: Target,
    profile: Profile,
    executable: Option<PathBuf>,
}

#[derive(Debug, serde::Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

#[derive(Debug, serde::Deserialize)]
struct Profile {
    test: bool,
}

impl Message {
    /// `path+file:///…/server/engine#tidemark-engine@0.0.0`
    fn package(&self) -> Option<String> {
        let (_, name) = self.package_id.rsplit_once('#')?;
        Some(name.split('@').next().unwrap_or(name).to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::Layer;

    fn artifact(package: &str, kind: &str, name: &str, test: bool) -> String {
        format!(
            "{{\"reason\":\"compiler-artifact\",\"package_id\":\"path+file:///r/{package}#tidemark-{package}@0.0.0\",\
             \"manifest_path\":\"/r/{package}/Cargo.toml\",\"target\":{{\"kind\":[\"{kind}\"],\"name\":\"{name}\"}},\
             \"profile\":{{\"test\":{test}}},\"executable\":\"/t/{package}-{name}\"}}"
        )
    }

    #[test]
    fn programs_are_found_in_cargos_messages() {
        let mut binaries = Binaries::default();
        let messages = [
            artifact("engine", "lib", "tidemark_engine", true),
            artifact("engine", "test", "conformance", true),
            artifact("simulation", "bin", "tidemark-simulate", false),
            "{\"reason\":\"build-finished\",\"success\":true}".to_owned(),
            artifact("node", "bin", "tidemarkd", false).replace("\"/t/node-tidemarkd\"", "null"),
        ];
        binaries.read(&messages.join("\n"));
        let test = |target| Means::Test {
            package: "tidemark-engine",
            target,
            name: "x",
        };
        let file = binaries.program(&test(Some("conformance"))).unwrap();
        assert_eq!(
            (file.path.to_str(), file.dir.to_str()),
            (Some("/t/engine-conformance"), Some("/r/engine"))
        );
        assert!(binaries.program(&test(None)).is_some() && binaries.program(&test(Some("other"))).is_none());
        assert!(binaries.program(&Means::Seeds { first: 1, count: 1 }).is_some());
    }

    #[test]
    fn one_build_has_all_that_is_needed() {
        let evidence = |means| Evidence {
            layer: Layer::Rules,
            means,
            says: &["x"],
        };
        let test = |package, target| {
            evidence(Means::Test {
                package,
                target,
                name: "x",
            })
        };
        let needs = Needs::of(&[test("a", None), test("b", Some("f")), test("b", Some("g"))]);
        let arguments = needs.test_arguments().join(" ");
        assert!(
            arguments.contains(" -p a -p b -p tidemark-runtime -p tidemark-mutants "),
            "{arguments}"
        );
        assert!(arguments.ends_with(" --lib --test f --test g"), "{arguments}");
        let needs = Needs::of(&[test("a", None), evidence(Means::Seeds { first: 1, count: 2 })]);
        assert!(needs.seeds);
        let arguments = needs.program_arguments().join(" ");
        assert!(
            arguments.contains(" --test page --bin tidemark-simulate "),
            "{arguments}"
        );
    }
}

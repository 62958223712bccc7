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
/// Whose program a server is, and the program.
const SERVER_PACKAGE: &str = "tidemark-node";
const SERVER: &str = "tidemarkd";
/// Without it the server takes the variable that chooses the bug for a setting.
const SERVER_FEATURE: &str = "tidemark-node/planted-bugs";
/// The rig of real servers. It has no bugs, so that it is the one that stands beside this program; it starts the server that
/// it finds in its own directory.
const NEMESIS: &str = "tidemark-nemesis";

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
    server: Option<Program>,
    nemesis: Option<Program>,
}

impl Binaries {
    /// Builds what that evidence needs; cargo's progress goes to standard error.
    pub fn build(root: &Path, all: &[Evidence]) -> Result<Binaries> {
        let needs = Needs::of(all);
        let mut binaries = Binaries::default();
        if !needs.packages.is_empty() {
            binaries.read(&cargo(root, &needs.test_arguments())?);
        }
        if !needs.programs().is_empty() {
            let aside = Aside::of(&needs.programs())?;
            binaries.read(&cargo(root, &needs.program_arguments())?);
            binaries.put_apart(&aside)?;
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
            Means::Servers { .. } => self.nemesis.as_ref(),
        }
    }

    /// Moves programs with bugs to where nobody takes them for the product, and puts the rig beside them.
    fn put_apart(&mut self, aside: &Aside) -> Result<()> {
        for program in self.simulation.iter_mut().chain(&mut self.server) {
            program.path = aside.take(&program.path)?;
        }
        if let Some(server) = &self.server {
            let path = aside.copy(NEMESIS)?;
            let dir = server.dir.clone();
            self.nemesis = Some(Program { path, dir });
        }
        Ok(())
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
                Some("bin") if !message.profile.test && message.target.name == SERVER => {
                    self.server = Some(program);
                }
                _ => {}
            }
        }
    }
}

/// Where programs with bugs are kept: `mutants` in the directory of this program, among the product's own. Cargo writes both
/// to one place, and what stood there before is put back.
struct Aside {
    product: PathBuf,
    mutants: PathBuf,
    /// Programs of the product that were there before.
    kept: Vec<&'static str>,
}

impl Aside {
    fn of(programs: &[(&'static str, &'static str)]) -> Result<Aside> {
        let own = std::env::current_exe().context("this program does not know where it is")?;
        let product = own.parent().context("a program is in a directory")?.to_owned();
        let mutants = product.join("mutants");
        std::fs::create_dir_all(&mutants).with_context(|| format!("cannot make {}", mutants.display()))?;
        let mut aside = Aside {
            product,
            mutants,
            kept: Vec::new(),
        };
        for (_, program) in programs {
            let from = aside.product.join(program);
            if from.is_file() {
                copy(&from, &aside.mutants.join(format!("{program}.product")))?;
                aside.kept.push(program);
            }
        }
        Ok(aside)
    }

    /// Moves what cargo has built there, and says where it is now.
    fn take(&self, built: &Path) -> Result<PathBuf> {
        let name = built.file_name().context("a program has a name")?;
        let to = self.mutants.join(name);
        copy(built, &to)?;
        Ok(to)
    }

    /// Copies a program of the product.
    fn copy(&self, program: &str) -> Result<PathBuf> {
        let from = self.product.join(program);
        if !from.is_file() {
            bail!("{program} is not built: run ./x build");
        }
        let to = self.mutants.join(program);
        copy(&from, &to)?;
        Ok(to)
    }
}

impl Drop for Aside {
    /// Also when the build has failed. What cannot be put back is built anew by the next build.
    fn drop(&mut self) {
        for program in &self.kept {
            let kept = self.mutants.join(format!("{program}.product"));
            let _ = std::fs::rename(kept, self.product.join(program));
        }
    }
}

/// Through another name: a program that runs cannot be written to, and cargo's files may be links to others.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let fresh = to.with_extension("fresh");
    let copied = std::fs::copy(from, &fresh).and_then(|_| std::fs::rename(&fresh, to));
    copied.with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))
}

/// What a set of evidence needs built.
#[derive(Debug, Default, PartialEq, Eq)]
struct Needs {
    packages: BTreeSet<&'static str>,
    libraries: bool,
    files: BTreeSet<&'static str>,
    seeds: bool,
    servers: bool,
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
                Means::Servers { .. } => needs.servers = true,
            }
        }
        needs
    }

    /// Programs with bugs, and their packages.
    fn programs(&self) -> Vec<(&'static str, &'static str)> {
        let all = [
            (self.seeds, (SIMULATION_PACKAGE, SIMULATION)),
            (self.servers, (SERVER_PACKAGE, SERVER)),
        ];
        all.into_iter()
            .filter(|(needed, _)| *needed)
            .map(|(_, one)| one)
            .collect()
    }

    /// `cargo test` would make a test of the program itself.
    fn program_arguments(&self) -> Vec<String> {
        let mut arguments = vec!["build", "--locked", "--features", FEATURE, "--test", SMALL_TEST];
        let programs = self.programs();
        if self.servers {
            arguments.extend(["--features", SERVER_FEATURE]);
        }
        for (_, program) in &programs {
            arguments.extend(["--bin", *program]);
        }
        let owners = programs.iter().map(|(package, _)| package);
        for package in self.packages.iter().chain(&ALWAYS).chain(owners) {
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
        let needs = Needs::of(&[evidence(Means::Servers {
            profile: "kill",
            seed: 1,
            count: 2,
        })]);
        let arguments = needs.program_arguments().join(" ");
        assert!(arguments.contains(" --bin tidemarkd -p"), "{arguments}");
    }
}

//! Public packages, unpacked into a directory of ours. Nothing is installed: no service starts, no root is needed.

use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where packages are kept between runs.
#[derive(Clone, Debug)]
pub struct Shelf {
    dir: PathBuf,
}

/// An unpacked package.
#[derive(Clone, Debug)]
pub struct Package {
    /// Where its files are.
    pub dir: PathBuf,
    /// As its registry names it.
    pub version: String,
}

impl Shelf {
    /// Packages below `dir`.
    pub fn new(dir: PathBuf) -> Shelf {
        Shelf { dir }
    }

    /// A Debian package, by the machine's own apt.
    pub fn debian(&self, name: &str) -> Result<Package> {
        let dir = self.dir.join(name);
        let files = dir.join("files");
        if !files.is_dir() {
            std::fs::create_dir_all(&dir)?;
            say(&format!("fetching the Debian package {name}"));
            let fetched = run(Command::new("apt-get").args(["download", name]).current_dir(&dir));
            if fetched.is_err() {
                // Its list of packages may be old, or not there at all.
                run(Command::new("apt-get").args(["update", "-qq"]))?;
                run(Command::new("apt-get").args(["download", name]).current_dir(&dir))?;
            }
            let unpacked = dir.join("unpacking");
            run(Command::new("dpkg-deb")
                .arg("-x")
                .arg(found(&dir, ".deb")?)
                .arg(&unpacked))?;
            // Last, so that what is there is whole.
            std::fs::rename(unpacked, &files)?;
        }
        let deb = found(&dir, ".deb")?;
        let file = deb.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let version = file.split('_').nth(1).unwrap_or("?").replace("%3a", ":");
        Ok(Package { dir: files, version })
    }

    /// A jar from Maven's central registry, by the machine's own Maven.
    pub fn maven(&self, group: &str, artifact: &str, version: &str) -> Result<Package> {
        let dir = self.dir.join(artifact);
        if found(&dir, ".jar").is_err() {
            std::fs::create_dir_all(&dir)?;
            say(&format!("fetching {group}:{artifact}:{version} by Maven"));
            run(Command::new("mvn")
                .args(["--batch-mode", "--quiet", "dependency:copy"])
                .args([
                    format!("-Dartifact={group}:{artifact}:{version}"),
                    format!("-DoutputDirectory={}", dir.display()),
                ]))?;
        }
        let version = version_of(&found(&dir, ".jar")?, artifact);
        Ok(Package { dir, version })
    }

    /// A jar and all that it needs, from the same registry, in a directory called `name`.
    pub fn maven_library(&self, name: &str, group: &str, artifact: &str, version: &str) -> Result<Package> {
        let lib = self.dir.join(name).join("lib");
        if !lib.is_dir() {
            let unfinished = self.dir.join(name).join("fetching");
            std::fs::create_dir_all(&unfinished)?;
            let pom = self.dir.join(name).join("pom.xml");
            std::fs::write(&pom, project(group, artifact, version))?;
            say(&format!(
                "fetching {group}:{artifact}:{version} and what it needs by Maven"
            ));
            run(Command::new("mvn")
                .args(["--batch-mode", "--quiet", "--file"])
                .arg(&pom)
                .args(["dependency:copy-dependencies", "-DincludeScope=runtime"])
                .arg(format!("-DoutputDirectory={}", unfinished.display())))?;
            // Last, so that what is there is whole.
            std::fs::rename(unfinished, &lib)?;
        }
        let jars = std::fs::read_dir(&lib)?.filter_map(|entry| Some(entry.ok()?.path()));
        let own = |jar: &PathBuf| {
            jar.file_name()
                .is_some_and(|file| file.to_string_lossy().starts_with(artifact))
        };
        let jar = jars
            .into_iter()
            .find(own)
            .with_context(|| format!("no {artifact} in {}", lib.display()))?;
        Ok(Package {
            version: version_of(&jar, artifact),
            dir: lib,
        })
    }
}

/// Maven's description of a project that is nothing but what it needs.
fn project(group: &str, artifact: &str, version: &str) -> String {
    format!(
        "<project xmlns=\"http://maven.apache.org/POM/4.0.0\"><modelVersion>4.0.0</modelVersion>\
         <groupId>tidemark</groupId><artifactId>compare</artifactId><version>1</version><packaging>pom</packaging>\
         <dependencies><dependency><groupId>{group}</groupId><artifactId>{artifact}</artifactId>\
         <version>{version}</version></dependency></dependencies></project>\n"
    )
}

/// The version of what is on the shelf, which counts, whatever is asked for.
fn version_of(jar: &Path, artifact: &str) -> String {
    let name = jar.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
    let version = name.strip_prefix(artifact).unwrap_or(name);
    version.trim_start_matches('-').to_owned()
}

/// The first file of a directory with that ending.
pub fn found(dir: &Path, ending: &str) -> Result<PathBuf> {
    let entries = std::fs::read_dir(dir)?.filter_map(|entry| Some(entry.ok()?.path()));
    let mut fitting = entries.filter(|path| path.to_string_lossy().ends_with(ending));
    fitting
        .next()
        .with_context(|| format!("no {ending} in {}", dir.display()))
}

/// Runs a command to its end; what it says is in the error, if there is one.
pub fn run(command: &mut Command) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("{name} cannot be started"))?;
    let errors = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    let lines: Vec<&str> = errors.lines().filter(|line| !line.trim().is_empty()).collect();
    ensure!(
        output.status.success(),
        "{name} failed: {}",
        lines.iter().take(3).copied().collect::<Vec<_>>().join(" / ")
    );
    Ok(())
}

/// Talk goes to stderr; the table and the JSON are all that stdout has.
pub fn say(text: &str) {
    eprintln!("compare: {text}");
}

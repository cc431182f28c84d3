//! The checks in the order of their price, with the time each took at the end.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};

use crate::command::{Run, cargo};
use crate::tools::{self, Tools};
use crate::{licences, reference, tidy, workspace};

/// Where the integration tests find the outside servers.
const MOTO: &str = "SLUICEFS_TEST_MOTO";
const S3S_FS: &str = "SLUICEFS_TEST_S3S_FS";
/// And an interpreter with what programs on a mount import.
const PYTHON: &str = "SLUICEFS_TEST_PYTHON";

/// Formatting, lints, tidy and unit tests.
///
/// # Errors
/// The first check that fails.
pub(crate) fn check(root: &Path) -> Result<()> {
    let mut steps = Steps::default();
    quick(&mut steps, root)?;
    steps.step("unit tests", || cargo(root).args(["test", "--workspace", "--lib", "--bins"]).run())?;
    steps.print();
    Ok(())
}

/// All tests of the workspace; `args` go to `cargo test`.
///
/// # Errors
/// Something the tests need is missing, or a test fails.
pub(crate) fn test(root: &Path, args: &[String]) -> Result<()> {
    let tools = tools::prepare(root, &workspace::target_dir(root)?)?;
    run_tests(root, &tools, args)
}

/// Everything that must pass before a change lands.
///
/// # Errors
/// The first check that fails.
pub(crate) fn ci(root: &Path) -> Result<()> {
    let mut steps = Steps::default();
    steps.step("licences", || licences::run(root))?;
    quick(&mut steps, root)?;
    let target = workspace::target_dir(root)?;
    let tools = steps.step("tools", || tools::prepare(root, &target))?;
    steps.step("spelling", || Run::new(&tools.typos).dir(root).run())?;
    steps.step("all tests", || run_tests(root, &tools, &[]))?;
    steps.step("docs/CLI.md", || reference::check(root))?;
    steps.step("rustdoc", || {
        cargo(root).args(["doc", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings").run()
    })?;
    steps.step("each feature", || each_feature(root))?;
    steps.print();
    Ok(())
}

fn quick(steps: &mut Steps, root: &Path) -> Result<()> {
    steps.step("format", || cargo(root).args(["fmt", "--all", "--check"]).run())?;
    steps.step("tidy", || tidy::run(root))?;
    steps.step("lints", || {
        cargo(root).args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]).run()
    })
}

fn run_tests(root: &Path, tools: &Tools, args: &[String]) -> Result<()> {
    let test = cargo(root).env(MOTO, &tools.moto_server).env(S3S_FS, &tools.s3s_fs);
    let test = test.env(PYTHON, &tools.python);
    if args.is_empty() {
        return test.args(["test", "--workspace", "--no-fail-fast"]).run();
    }
    test.args(["test"]).args(args).run()
}

/// Checks each package alone, without what its tests add, with none and with each one of its features.
fn each_feature(root: &Path) -> Result<()> {
    let metadata = workspace::metadata(root, &["--no-deps"])?;
    for package in metadata["packages"].as_array().context("cargo metadata lists no packages")? {
        let name = package["name"].as_str().context("a package has a name")?;
        let check = || cargo(root).args(["check", "--quiet", "--no-default-features", "--package", name]);
        check().run()?;
        let features = package["features"].as_object().context("a package has features")?;
        for feature in features.keys().filter(|feature| *feature != "default") {
            check().args(["--features", feature]).run()?;
        }
    }
    Ok(())
}

/// Runs checks one after the other and remembers how long each took.
#[derive(Debug, Default)]
struct Steps(Vec<(&'static str, f64)>);

impl Steps {
    fn step<T>(&mut self, name: &'static str, run: impl FnOnce() -> Result<T>) -> Result<T> {
        eprintln!("== {name}");
        let start = Instant::now();
        let value = run().with_context(|| format!("{name} failed"))?;
        self.0.push((name, start.elapsed().as_secs_f64()));
        Ok(value)
    }

    fn print(&self) {
        println!("\npassed:");
        for (name, secs) in &self.0 {
            println!("{secs:8.1} s  {name}");
        }
        println!("{:8.1} s  in all", self.0.iter().map(|(_, secs)| secs).sum::<f64>());
    }
}

//! The rules, applied to this repository. That each of them can fail is proved beside its code.

use std::sync::LazyLock;
use tidemark_tidy::{Breach, Repository, bans, invariants, layers, lengths, manifest, names, planted};

static REPOSITORY: LazyLock<Repository> = LazyLock::new(Repository::here);

#[track_caller]
fn none(breaches: Vec<Breach>) {
    let lines: Vec<String> = breaches.iter().map(Breach::to_string).collect();
    assert!(lines.is_empty(), "{} to mend:\n{}\n", lines.len(), lines.join("\n"));
}

#[test]
fn crates_use_only_the_layers_below_them() {
    none(layers::edges(&REPOSITORY));
}

#[test]
fn heavy_libraries_have_one_address() {
    none(layers::addresses(&REPOSITORY));
}

#[test]
fn dependencies_have_a_reason_and_one_version() {
    none(manifest::reasons(&REPOSITORY));
    none(manifest::versions(&REPOSITORY));
}

#[test]
fn files_are_short() {
    none(lengths::files(&REPOSITORY));
}

#[test]
fn functions_are_short() {
    none(lengths::functions(&REPOSITORY, lengths::LONG_FUNCTIONS));
}

#[test]
fn files_begin_with_what_they_are_for() {
    none(lengths::module_docs(&REPOSITORY));
}

#[test]
fn nothing_banned_is_used() {
    none(bans::bans(&REPOSITORY));
}

#[test]
fn names_say_what_is_inside() {
    none(names::paths(&REPOSITORY));
    none(names::items(&REPOSITORY));
}

#[test]
fn every_planted_bug_is_planted_and_none_can_be_used() {
    none(planted::everywhere(&REPOSITORY));
    none(planted::never_in_use(&REPOSITORY));
}

#[test]
fn the_repository_speaks_of_the_product_alone() {
    none(names::words(&REPOSITORY));
}

#[test]
fn invariants_are_listed_asserted_and_tested() {
    none(invariants::invariants(&REPOSITORY));
}

//! The table of planted bugs in docs/TESTING.md is the list that is run.

use tidemark_mutants::evidence::evidence;
use tidemark_runtime::planted::Bug;

#[test]
fn the_page_names_every_bug_and_what_catches_it() {
    let page = include_str!("../../../docs/TESTING.md");
    for bug in Bug::ALL {
        let row = format!("| `{}` |", bug.name());
        let line = page.lines().find(|line| line.starts_with(&row));
        let line = line.unwrap_or_else(|| panic!("docs/TESTING.md has no row {row} in its table of planted bugs"));
        for one in evidence(bug) {
            let layer = one.layer.name();
            assert!(
                line.contains(layer),
                "{}: the page does not name the layer {layer}",
                bug.name()
            );
        }
    }
}

//! Claims about the folder's name.

use super::*;

#[test]
fn a_folder_belongs_to_one_job_of_one_allocation() {
    let allocation = |cluster: Option<&str>| Allocation {
        job: 17,
        cluster: cluster.map(str::to_owned),
        nodes: Vec::new(),
        restarts: 0,
        gpus: 0,
        this_node: None,
    };
    assert_eq!(name("co2", &allocation(Some("alpha"))), "alpha-17-co2");
    assert_eq!(name("../a b/\u{fc}", &allocation(None)), "17-..-a-b--");
    assert_eq!(name(&"x".repeat(500), &allocation(None)).len(), 3 + NAME_CHARS);
}

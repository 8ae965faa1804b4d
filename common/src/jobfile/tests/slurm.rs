//! Claims about `[slurm]`.

use super::*;

fn with(slurm: &str) -> String {
    format!(
        "data.kind = \"sine\"\n[resources]\nworld-size = 4\nthreads-per-rank = 2\n[slurm]\n{slurm}\n"
    )
}

#[test]
fn every_value_is_explained() {
    job(&with("partition = \"main\"\nnodes = 2\nextra = [\"--exclusive\"]"))
        .explain("slurm", &expect![[r#""#]]);
}

#[test]
fn a_job_without_the_table_still_could_be_submitted_with_an_allocation() {
    let loaded = job("data.kind = \"sine\"\nresources.world-size = 3\n").load().unwrap();
    assert_eq!((loaded.slurm.nodes, loaded.slurm.cpus_per_task), (1, 3));
    assert!(!loaded.explain.iter().any(|row| row.key.starts_with("slurm")));
    let flags = job("data.kind = \"sine\"\n").set("slurm.partition=long").load().unwrap();
    assert_eq!(flags.slurm.partition.as_deref(), Some("long"));
}

#[test]
fn all_mistakes_are_told_with_key_and_value() {
    let text = "partition = \"a b\"\ntime = \"\"\nnodes = 0\nextra = [\"-C\"]\nwalltime = \"1:00\"";
    job(&with(text)).check(&expect![[r#""#]]);
    job(&with("nodes = 2\ncpus-per-task = 3")).check(&expect![[r#""#]]);
    job(&with("extra = [\"--nodes=3\"]\ngres = \"gpu:1\\n#SBATCH --uid=0\""))
        .check(&expect![[r#""#]]);
}

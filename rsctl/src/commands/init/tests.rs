//! Claims about the templates.

use clap::ValueEnum as _;

use common::jobfile;

use super::*;

#[test]
fn every_template_is_a_right_job() {
    for template in Template::value_variants() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &template.files(), false).unwrap();
        let text = fs_err::read_to_string(dir.path().join("job.toml")).unwrap();
        let loaded = jobfile::load(&jobfile::Input {
            name: "job.toml",
            text: &text,
            base_dir: dir.path(),
            caller_dir: dir.path(),
            overrides: &[],
            strict: true,
            read: &|path| fs_err::read_to_string(path),
            variable: &|_| None,
        });
        let loaded = loaded.unwrap_or_else(|mistakes| panic!("{template:?}:\n{mistakes}"));
        assert_eq!(loaded.warnings, Vec::<String>::new(), "{template:?}");
        for (key, path) in crate::job::inputs(&loaded.spec) {
            assert!(path.is_file(), "{template:?}: {key}");
        }
    }
}

#[test]
fn what_exists_is_replaced_only_by_force() {
    let dir = tempfile::tempdir().unwrap();
    fs_err::write(dir.path().join("ds_config.json"), "mine").unwrap();
    let files = Template::Sine.files();
    let failure = write(dir.path(), &files, false).unwrap_err();
    assert_eq!(failure.code, ExitCode::Failed);
    assert!(failure.render().contains("ds_config.json"), "{}", failure.render());
    assert!(!dir.path().join("job.toml").exists(), "all or nothing");
    write(dir.path(), &files, true).unwrap();
    assert_ne!(fs_err::read_to_string(dir.path().join("ds_config.json")).unwrap(), "mine");
}

//! The commands of `docs/troubleshooting.md` that need no cluster do what the page says.

use tests::binaries::workspace_root;
use tests::rsctl::Rsctl;

/// The commands of a page: lines of its blocks, without their comments.
fn commands(page: &str) -> Vec<String> {
    let mut commands = Vec::new();
    for block in page.split("```").skip(1).step_by(2) {
        let lines = block.lines().map(|line| line.split(" #").next().unwrap_or_default().trim());
        commands.extend(lines.filter(|line| !line.is_empty()).map(str::to_owned));
    }
    commands
}

#[test]
fn the_commands_of_the_troubleshooting_page_work() {
    let page = fs_err::read_to_string(workspace_root().join("docs/troubleshooting.md")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let rsctl = Rsctl { folder: folder.path().to_owned(), master: None };
    // Files come before what reads them, wherever the page tells of them.
    let mut commands = commands(&page);
    commands.sort_by_key(|command| !command.starts_with("rsctl init"));
    let mut count = 0;
    for command in commands {
        let arguments: Vec<&str> = command.split_whitespace().collect();
        let ["rsctl", arguments @ ..] = arguments.as_slice() else { continue };
        if ["config", "init"].contains(&arguments[0]) {
            let answer = rsctl.call(arguments);
            assert_eq!(answer.code, 0, "{command}\n{}", answer.stderr);
            assert!(!answer.stdout.is_empty(), "{command} prints nothing");
        } else {
            // Asks a cluster: at least its verb and flags exist.
            let help = rsctl.call(&[arguments[0], "--help"]).expect_code(0);
            for flag in arguments.iter().filter(|argument| argument.starts_with("--")) {
                assert!(help.stdout.contains(flag), "{command}: no {flag} in\n{}", help.stdout);
            }
        }
        count += 1;
    }
    assert!(count >= 20, "{count} commands");
}

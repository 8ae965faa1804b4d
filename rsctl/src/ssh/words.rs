//! What ssh's own words mean, and what to do about them. Pure. ssh has no other way to tell: its exit
//! code is 255 whatever the reason.

/// Why ssh has not come to the host's shell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    UnknownName,
    /// Nothing listens at the port.
    Refused,
    /// Nothing answers.
    Unreachable,
    HostKeyUnknown,
    HostKeyChanged,
    Permission,
    /// The sshd hung up.
    Closed,
    /// ssh did not understand its command line or configuration.
    Usage,
    Other,
}

/// In the order in which they are looked for: a message about a changed key has the line of an unknown
/// one too.
const SIGNS: &[(&str, Refusal)] = &[
    ("REMOTE HOST IDENTIFICATION HAS CHANGED", Refusal::HostKeyChanged),
    ("Host key verification failed", Refusal::HostKeyUnknown),
    ("Could not resolve hostname", Refusal::UnknownName),
    ("Permission denied", Refusal::Permission),
    ("Too many authentication failures", Refusal::Permission),
    ("Connection refused", Refusal::Refused),
    ("timed out", Refusal::Unreachable),
    ("No route to host", Refusal::Unreachable),
    ("Network is unreachable", Refusal::Unreachable),
    ("Connection closed", Refusal::Closed),
    ("Connection reset", Refusal::Closed),
    ("Bad configuration option", Refusal::Usage),
    ("Can't open user config file", Refusal::Usage),
    ("usage: ssh", Refusal::Usage),
];

impl Refusal {
    pub(crate) fn read(words: &str) -> Self {
        let sign = SIGNS.iter().find(|(sign, _)| words.contains(sign));
        sign.map_or(Self::Other, |(_, refusal)| *refusal)
    }

    pub(crate) fn hint(self, host: &str) -> String {
        match self {
            Self::UnknownName => format!(
                "is the name right? `{host}` must be in the DNS, in /etc/hosts, or a Host of \
                 ~/.ssh/config"
            ),
            Self::Refused => {
                "is an sshd running there, at that port? --ssh-port says another one".to_owned()
            }
            Self::Unreachable => {
                "is the host up, and does a firewall let ssh through? --exclude leaves it out"
                    .to_owned()
            }
            Self::HostKeyUnknown => format!(
                "this machine has not met that host: log in once by hand, `ssh {host}`, and \
                 compare the fingerprint"
            ),
            Self::HostKeyChanged => format!(
                "the host was set up anew, or another machine answers in its place: ask who runs \
                 it, then `ssh-keygen -R {host}` and log in once by hand"
            ),
            Self::Permission => format!(
                "ssh must get in without a password: `ssh-copy-id {host}`, and `ssh-add` for a key \
                 that has a passphrase; a hostfile may say the user: USER@HOST"
            ),
            Self::Closed => {
                "its sshd hung up: its log says why (too many connections, or a user it forbids)"
                    .to_owned()
            }
            Self::Usage => "see what --ssh and --launcher-args give to ssh".to_owned(),
            Self::Other => format!("try it by hand: ssh -o BatchMode=yes {host} true"),
        }
    }
}

/// Lines of ssh's that are repeated: the last ones tell what counts.
const MAX_LINES: usize = 4;

/// The lines that say something: no banners, no frames.
pub(crate) fn essence(words: &str) -> String {
    let says = |line: &&str| line.chars().any(char::is_alphanumeric);
    let lines: Vec<&str> = words.lines().map(str::trim).filter(says).collect();
    let last = &lines[lines.len().saturating_sub(MAX_LINES)..];
    last.iter().map(|line| plain(line)).collect::<Vec<_>>().join("\n")
}

/// A host's words for a terminal: nothing in them moves its cursor or renames its window.
pub(crate) fn plain(line: &str) -> String {
    line.chars().filter(|c| !c.is_control() || *c == '\t').collect()
}

use super::keys::{self, Fate, Key};

mod document;

/// Every key with its block.
fn all_keys() -> impl Iterator<Item = (&'static str, &'static Key)> {
    keys::blocks().flat_map(|block| block.keys.iter().map(|key| (block.path, key)))
}

#[test]
fn every_key_has_one_line() {
    let mut seen = std::collections::BTreeSet::new();
    for (block, key) in all_keys() {
        assert!(!key.name.is_empty() && !key.name.contains(' '), "{:?}", key.name);
        assert!(seen.insert((block, key.name)), "{block}.{} has two lines", key.name);
    }
}

#[test]
fn every_block_is_itself_a_key() {
    let paths: Vec<String> =
        all_keys().map(|(block, key)| keys::path_of(block, key.name)).collect();
    for block in keys::blocks() {
        let path = block.path;
        assert!(path.is_empty() || paths.iter().any(|known| known == path), "{path}");
    }
}

#[test]
fn every_key_says_what_it_means_and_why_it_has_no_effect() {
    for (block, key) in all_keys() {
        assert!(!key.meaning.is_empty(), "{block}.{}", key.name);
        if let Fate::Ignored(_, why) | Fate::NotSupported(_, why) | Fate::Removed(_, why) = key.fate
        {
            assert!(!why.is_empty(), "{block}.{}", key.name);
        }
    }
}

#[test]
fn what_a_key_decides_is_a_key_of_the_job_and_a_new_name_is_a_key_of_the_block() {
    for (block, key) in all_keys() {
        match key.fate {
            Fate::Implemented(decides) if !decides.is_empty() => {
                let row = crate::explain::Effective::new(decides, String::new(), String::new());
                assert!(!row.meaning.is_empty(), "{block}.{} decides {decides}", key.name);
            }
            Fate::Alias(new) | Fate::Deprecated(new) => {
                assert!(keys::find(block, new).is_some(), "{block}.{} is {new}", key.name);
            }
            _ => {}
        }
    }
}

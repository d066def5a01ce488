//! Where things are kept that belong to the user: `$DS4_HOME`, or the places that the system has for such data.

use std::env;
use std::path::PathBuf;

/// Models and sessions: what nobody can make anew.
pub fn data() -> Option<PathBuf> {
    choose(folder, "XDG_DATA_HOME", ".local/share")
}

/// Pages: what could be read again.
pub fn cache() -> Option<PathBuf> {
    choose(folder, "XDG_CACHE_HOME", ".cache")
}

/// The page store that commands use if nobody names another.
pub fn store() -> Option<PathBuf> {
    Some(cache()?.join("store"))
}

fn folder(variable: &str) -> Option<PathBuf> {
    env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from)
}

fn choose(folder: impl Fn(&str) -> Option<PathBuf>, xdg: &str, at_home: &str) -> Option<PathBuf> {
    folder("DS4_HOME")
        // The specification wants relative paths ignored.
        .or_else(|| Some(folder(xdg).filter(|path| path.is_absolute())?.join("ds4")))
        .or_else(|| Some(folder("HOME")?.join(at_home).join("ds4")))
        .or_else(|| Some(folder("LOCALAPPDATA")?.join("ds4")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_of_our_own_comes_before_the_systems() {
        let check = |variables: &[(&str, &str)], want: Option<&str>| {
            let folder = |name: &str| {
                variables
                    .iter()
                    .find(|(variable, _)| *variable == name)
                    .map(|(_, value)| PathBuf::from(value))
            };
            assert_eq!(choose(folder, "XDG_CACHE_HOME", ".cache"), want.map(PathBuf::from), "{variables:?}");
        };
        let (home, xdg) = (("HOME", "/home/a"), ("XDG_CACHE_HOME", "/fast"));
        check(&[home, xdg, ("DS4_HOME", "/ds4")], Some("/ds4"));
        check(&[home, xdg], Some("/fast/ds4"));
        check(&[home, ("XDG_CACHE_HOME", "relative")], Some("/home/a/.cache/ds4"));
        check(&[home], Some("/home/a/.cache/ds4"));
        check(&[], None);
    }
}

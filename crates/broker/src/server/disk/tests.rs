use super::*;

#[test]
fn every_virtual_host_has_a_directory_of_its_own_that_a_file_system_takes() {
    assert_eq!(folder("/"), "vhost-%2F");
    assert_eq!(folder("aiida-1_b"), "vhost-aiida-1_b");
    // A name has 255 bytes at most, and each may become three.
    let long = |letter: &str, end: &str| letter.repeat((255 - end.len()) / letter.len()) + end;
    let names =
        [long("v", ""), long("v", "w"), long("v", "x"), long("/", ""), long("/", "."), long("ü", "1"), long("ü", "2")];
    let mut folders: Vec<String> = names.iter().map(|name| folder(name)).collect();
    assert!(folders.iter().all(|folder| folder.len() <= LONGEST && folder.is_ascii()), "{folders:?}");
    // Nobody's name is written so: `~` is `%7E` in those that are kept whole.
    let pretended = folders[0].trim_start_matches("vhost-").to_owned();
    folders.push(folder(&pretended));
    folders.sort();
    folders.dedup();
    assert_eq!(folders.len(), names.len() + 1);
}

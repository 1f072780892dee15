//! Says who it is: arguments, environment and files, as the runtime hands them over.
//!
//! args: any, printed. env: printed, sorted; `LIST` names directories, separated by `:`, whose entries are listed too.
//! exit codes: 0.

use std::{env, fs, io};

fn main() {
    for (index, argument) in env::args().enumerate() {
        println!("arg {index} {argument}");
    }
    let mut variables: Vec<_> = env::vars().collect();
    variables.sort();
    for (name, value) in &variables {
        println!("env {name}={value}");
    }
    match env::current_dir() {
        Ok(path) => println!("cwd {}", path.display()),
        Err(error) => println!("cwd unknown: {}", error.kind()),
    }
    for directory in env::var("LIST").unwrap_or_default().split(':').filter(|name| !name.is_empty())
    {
        match entries(directory) {
            Ok(names) => println!("dir {directory} {}", names.join(" ")),
            Err(error) => println!("dir {directory} error {:?}", error.kind()),
        }
    }
    eprintln!("hello on stderr");
    println!("hello, {}", env::var("NAME").unwrap_or_else(|_| "pod".to_owned()));
}

fn entries(directory: &str) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

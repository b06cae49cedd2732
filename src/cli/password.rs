//! A password from whoever runs a command: typed without echo, or from standard input. Never from
//! an argument, which every user of the machine can read.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};

use anyhow::{Context, bail};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use crate::auth::password::{LENGTH, Password};

/// The password on standard input, one line; or typed twice at the terminal.
pub(super) fn obtain(from_stdin: bool) -> anyhow::Result<Password> {
    let text = if from_stdin { piped(&mut io::stdin().lock())? } else { typed()? };
    let password = Password::new(text.to_string());
    password.fit()?;
    Ok(password)
}

/// All of it, without the line end.
fn piped(from: &mut impl Read) -> anyhow::Result<Zeroizing<String>> {
    let mut text = Zeroizing::new(String::new());
    from.take(*LENGTH.end() as u64 + 3).read_to_string(&mut text).context("no password to read")?;
    let line = text.strip_suffix('\n').unwrap_or(&text);
    let line = line.strip_suffix('\r').unwrap_or(line);
    if line.contains('\n') {
        bail!("a password is one line");
    }
    Ok(Zeroizing::new(line.to_owned()))
}

fn typed() -> anyhow::Result<Zeroizing<String>> {
    let terminal = File::options().read(true).write(true).open("/dev/tty");
    let terminal = terminal.context("there is no terminal to ask at: use --password-stdin")?;
    let _silence = Silence::on(&terminal)?;
    let first = ask(&terminal, "Password: ")?;
    let second = ask(&terminal, "Again: ")?;
    if *first != *second {
        bail!("the two are not the same");
    }
    Ok(first)
}

fn ask(mut terminal: &File, question: &str) -> anyhow::Result<Zeroizing<String>> {
    write!(terminal, "{question}").context("cannot ask at the terminal")?;
    let mut line = Zeroizing::new(String::new());
    BufReader::new(terminal).read_line(&mut line).context("cannot read from the terminal")?;
    writeln!(terminal).context("cannot write to the terminal")?;
    Ok(Zeroizing::new(line.trim_end_matches(['\r', '\n']).to_owned()))
}

/// A terminal that does not show what is typed, until this is dropped.
struct Silence<'t> {
    terminal: &'t File,
    before: Termios,
}

impl<'t> Silence<'t> {
    fn on(terminal: &'t File) -> anyhow::Result<Self> {
        let before = tcgetattr(terminal).context("cannot ask at the terminal")?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(terminal, OptionalActions::Flush, &silent).context("cannot ask unseen")?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Silence<'_> {
    fn drop(&mut self) {
        // the terminal may be gone
        let _ = tcsetattr(self.terminal, OptionalActions::Flush, &self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piped_password_is_one_line_of_any_characters() {
        let read = |text: &str| piped(&mut text.as_bytes()).map(|text| text.to_string());
        for (text, expected) in
            [("a b ", "a b "), ("a\n", "a"), ("a\r\n", "a"), ("", ""), ("\"é'\n", "\"é'")]
        {
            assert_eq!(read(text).unwrap(), expected);
        }
        for bad in ["a\nb", "a\n\n"] {
            assert!(read(bad).is_err(), "{bad:?}");
        }
        assert!(piped(&mut [0xff_u8, 0xfe].as_slice()).is_err());
        let endless = piped(&mut io::repeat(b'x')).unwrap();
        assert!(Password::new(endless.to_string()).fit().is_err(), "read no further than it fits");
    }
}

//! What somebody sends to log in: a name and a password, as JSON or as a form.

use form_urlencoded::parse;
use serde_json::Value;

use super::jwt::strict_object;
use super::password::Password;

/// Bytes of the largest body: a name, and the longest password, of whose bytes escaping may make six
/// each. How deep it is does not matter: two fields of text are all that is read, and what is neither
/// is refused.
pub const LARGEST: u64 = 8 * 1024;

/// A name and a password.
#[derive(Debug)]
pub struct LoginForm {
    /// As sent; it need not be anybody's.
    pub username: String,
    /// As sent.
    pub password: Password,
}

/// What is wrong with a body; never says what stood in it, but the name of a field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadForm {
    /// Neither JSON nor a form.
    #[error("Send JSON or a form: {{\"username\":\"...\",\"password\":\"...\"}}")]
    Unreadable,
    /// A field that is not there, or not text.
    #[error("field '{0}': text is missing")]
    Missing(&'static str),
    /// A field that stands there twice.
    #[error("field '{0}': stands there twice")]
    Twice(&'static str),
    /// A field that is not one of the two.
    #[error("field '{0}': is not known here")]
    Unknown(String),
}

impl LoginForm {
    /// Reads a body. What calls itself no form is read as JSON.
    ///
    /// # Errors
    /// [`BadForm`]
    pub fn read(content_type: &str, body: &[u8]) -> Result<Self, BadForm> {
        let kind = content_type.split(';').next().unwrap_or_default().trim();
        let mut fields = Fields::default();
        match kind.to_ascii_lowercase().as_str() {
            "application/x-www-form-urlencoded" => {
                for (name, value) in parse(body) {
                    fields.add(&name, Some(value.into_owned()))?;
                }
            }
            "" | "application/json" => {
                for (name, value) in strict_object(body).ok_or(BadForm::Unreadable)? {
                    let text = if let Value::String(text) = value { Some(text) } else { None };
                    fields.add(&name, text)?;
                }
            }
            _ => return Err(BadForm::Unreadable),
        }
        let username = fields.username.ok_or(BadForm::Missing("username"))?;
        Ok(Self { username, password: fields.password.ok_or(BadForm::Missing("password"))? })
    }
}

#[derive(Default)]
struct Fields {
    username: Option<String>,
    password: Option<Password>,
}

impl Fields {
    fn add(&mut self, name: &str, value: Option<String>) -> Result<(), BadForm> {
        match name {
            "username" => {
                let text = value.ok_or(BadForm::Missing("username"))?;
                let before = self.username.replace(text);
                before.map_or(Ok(()), |_| Err(BadForm::Twice("username")))
            }
            "password" => {
                let text = value.ok_or(BadForm::Missing("password"))?;
                let before = self.password.replace(Password::new(text));
                before.map_or(Ok(()), |_| Err(BadForm::Twice("password")))
            }
            // a name may be a password in the wrong place: only what looks like a word is repeated
            other => Err(BadForm::Unknown(
                other
                    .chars()
                    .take_while(|c| c.is_ascii_alphabetic() || *c == '_')
                    .take(32)
                    .collect(),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const JSON: &str = "application/json";
    const FORM: &str = "application/x-www-form-urlencoded";

    fn fault(kind: &str, body: &str) -> BadForm {
        LoginForm::read(kind, body.as_bytes()).unwrap_err()
    }

    #[test]
    fn a_name_and_a_password_are_read_from_json_and_from_a_form() {
        for (kind, body) in [
            (JSON, r#"{"username":"ann","password":"a b&c=d"}"#),
            ("Application/JSON; charset=utf-8", r#"{"password":"a b&c=d","username":"ann"}"#),
            ("", r#"{"username":"ann","password":"a b&c=d"}"#),
            (FORM, "username=ann&password=a+b%26c%3Dd"),
        ] {
            let form = LoginForm::read(kind, body.as_bytes()).unwrap();
            assert_eq!(form.username, "ann");
            let same = format!("{:?}", form.password);
            assert_eq!(same, "Password");
            assert!(form.password.fit().is_err(), "seven bytes");
        }
    }

    #[test]
    fn every_mistake_names_its_field_and_repeats_no_value() {
        for (kind, body, expected) in [
            (JSON, "", BadForm::Unreadable),
            (JSON, "username=ann&password=x", BadForm::Unreadable),
            ("text/plain", "{}", BadForm::Unreadable),
            (JSON, r#"["hunter2"]"#, BadForm::Unreadable),
            (JSON, r#"{"username":"a","password":"x","password":"y"}"#, BadForm::Unreadable),
            (JSON, "{}", BadForm::Missing("username")),
            (JSON, r#"{"username":7,"password":"x"}"#, BadForm::Missing("username")),
            (JSON, r#"{"username":"a","password":null}"#, BadForm::Missing("password")),
            (JSON, r#"{"username":"a"}"#, BadForm::Missing("password")),
            (JSON, r#"{"username":[[[[["a"]]]]],"password":"x"}"#, BadForm::Missing("username")),
            (FORM, "username=a", BadForm::Missing("password")),
            (FORM, "username=a&username=b&password=x", BadForm::Twice("username")),
            (FORM, "username=a&password=x&password=x", BadForm::Twice("password")),
            (FORM, "username=a&password=x&scope=all", BadForm::Unknown("scope".to_owned())),
            (JSON, r#"{"Username":"a"}"#, BadForm::Unknown("Username".to_owned())),
            (
                FORM,
                "{\"username\":\"ann\",\"password\":\"hunter2\"}",
                BadForm::Unknown(String::new()),
            ),
        ] {
            let fault = fault(kind, body);
            assert_eq!(fault, expected, "{body}");
            assert!(!fault.to_string().contains("hunter2"));
        }
    }

    #[test]
    fn the_longest_password_fits_however_it_is_escaped() {
        let password = "\\u0061".repeat(*crate::auth::password::LENGTH.end());
        let body = format!(r#"{{"username":"{}","password":"{password}"}}"#, "n".repeat(255));
        assert!(body.len() as u64 <= LARGEST, "{}", body.len());
        let form = LoginForm::read(JSON, body.as_bytes()).unwrap();
        assert_eq!((form.password.bounded(), form.password.fit()), (Ok(()), Ok(())));
    }

    proptest! {
        #[test]
        fn no_body_makes_it_panic(body in any::<Vec<u8>>(), form in any::<bool>()) {
            let _ = LoginForm::read(if form { FORM } else { JSON }, &body);
        }
    }
}

use super::*;

const NAMES: [&str; 3] = ["gpu0", "gpu1", "gpu2"];

fn no(status: u16, words: &str) -> Outcome {
    Err(Failure { status: Some(status), words: words.to_owned() })
}

fn away() -> Outcome {
    Err(Failure::ours("cannot be reached"))
}

fn text(outcomes: &[Outcome; 3], passes_over: bool) -> (Option<u16>, String) {
    let failure = verdict(&NAMES, outcomes, passes_over).unwrap_err();
    (failure.status, failure.words)
}

#[test]
fn what_all_have_done_is_done() {
    assert_eq!(verdict(&NAMES, &[Ok(200), Ok(201), Ok(200)], false), Ok(201));
}

#[test]
fn what_one_has_not_done_is_told_with_its_name_and_who_has() {
    let failed = text(&[Ok(200), away(), no(404, "model 'x' not found")], false);
    let words = "Failed on gpu1 (cannot be reached), on gpu2 (model 'x' not found); done on gpu0";
    assert_eq!(failed, (None, words.to_owned()));
    let alone = text(&[away(), no(400, "bad"), no(400, "worse")], false);
    let words = "Failed on gpu0 (cannot be reached), on gpu1 (bad), on gpu2 (worse)";
    assert_eq!(alone, (None, words.to_owned()));
}

#[test]
fn where_all_say_the_same_no_it_is_told_as_one_of_them_says_it() {
    let missing = || no(404, "model 'x' not found");
    for passes_over in [false, true] {
        let failed = text(&[missing(), missing(), missing()], passes_over);
        assert_eq!(failed, (Some(404), "model 'x' not found".to_owned()));
    }
    let (status, words) = text(&[no(400, "a"), no(400, "b"), no(400, "a")], false);
    assert_eq!(
        (status, words.as_str()),
        (Some(400), "Failed on gpu0 (a), on gpu1 (b), on gpu2 (a)")
    );
}

#[test]
fn an_instance_without_the_model_has_nothing_to_delete() {
    let missing = || no(404, "model 'x' not found");
    assert_eq!(verdict(&NAMES, &[missing(), Ok(200), missing()], true), Ok(200));
    let (status, words) = text(&[missing(), Ok(200), away()], true);
    assert_eq!(
        (status, words.as_str()),
        (None, "Failed on gpu2 (cannot be reached); done on gpu1")
    );
}

//! What is normalised is normal: twice is the same as once, and nothing ambiguous is left.
#![no_main]

use std::borrow::Cow;

use libfuzzer_sys::fuzz_target;
use tollgate::route::path::normalise;

fuzz_target!(|raw: &str| {
    let Ok(normal) = normalise(raw) else { return };
    assert!(
        matches!(normalise(&normal), Ok(Cow::Borrowed(same)) if same == normal),
        "{normal}"
    );
    assert!(normal.starts_with('/') && !normal.contains("//"), "{normal}");
    assert!(
        normal.split('/').all(|segment| segment != "." && segment != ".."),
        "{normal}"
    );
    assert!(
        normal
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && !b"\\;?#".contains(&byte)),
        "{normal}"
    );
    for hidden in ["%2F", "%5C", "%00", "%2E", "%7F"] {
        assert!(!normal.contains(hidden), "{normal}");
    }
});

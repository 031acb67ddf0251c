"""Settings that are texts of a certain form."""

import pytest

from data.errors import UserError
from models.core.settings import Settings


@pytest.mark.parametrize("fold", ["1/2", "2/5", "5/5", "10/100", ""])
def test_folds_are_written_as_one_of_many(fold):
    assert Settings(fold=fold).fold == fold


@pytest.mark.parametrize("fold", ["0/5", "6/5", "1/1", "2", "2/", "a/b", "-1/5", "1/5/5", " 1/5", "1/9999999", "²/5"])
def test_what_is_no_fold_is_refused(fold):
    with pytest.raises(UserError, match=f"^--fold={fold} is no fold: write 2/5, for example"):
        Settings(fold=fold)


@pytest.mark.parametrize("rule", ["(", "*", "[a", "(?P<a", "a{99999999999}"])
def test_what_is_no_regular_expression_is_refused_in_one_line(rule):
    with pytest.raises(UserError, match="^--group_by=.* is no regular expression .*: correct it$"):
        Settings(group_by=rule)

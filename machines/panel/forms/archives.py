"""What is said of a file before its first part is sent."""

from django import forms

from machines.models import Archive


class BeginForm(forms.Form):
    title = forms.CharField(max_length=200, error_messages={"max_length": "The name of the file is too long."})
    format = forms.ChoiceField(choices=Archive.Format.choices)
    size = forms.IntegerField(min_value=0, max_value=2**53)

    def clean_title(self) -> str:
        """Browsers give the name alone; a path is cut down to it, and what no header can carry is left out."""
        name = str(self.cleaned_data["title"]).replace("\\", "/").rsplit("/", 1)[-1]
        return "".join(character for character in name if character.isprintable()) or "archive"

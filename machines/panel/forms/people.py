"""What people say of themselves."""

from django import forms
from django.http import QueryDict

from machines.models import User


class ProfileForm(forms.Form):
    name = forms.CharField(label="Full name", max_length=150, required=False)
    email = forms.EmailField(
        label="Email address", max_length=254, required=False,
        help_text="You can sign in with it, and a link to a new password is sent there.",
    )  # fmt: skip

    def __init__(self, data: QueryDict | None = None, *, person: User) -> None:
        super().__init__(data, initial={"name": person.first_name, "email": person.email})
        self._person = person
        self.fields["name"].widget.attrs |= {"autocomplete": "name"}
        self.fields["email"].widget.attrs |= {"autocomplete": "email"}

    def clean_email(self) -> str:
        """One address, one person: both would be asked for at the sign-in."""
        email: str = self.cleaned_data["email"]
        others = User.objects.exclude(pk=self._person.pk)
        if email and (others.filter(email__iexact=email) | others.filter(username__iexact=email)).exists():
            raise forms.ValidationError("Somebody else has this address.")
        return email

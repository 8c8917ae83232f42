import django.db.models.deletion
from django.db import migrations, models


def keep_what_is_known(apps, schema_editor):
    """An account was bound for its issuer; now it is for one provider.

    It stays with the only provider of that issuer. Where several have connected the issuer, one may
    have let in somebody whom another one would not, or by a subject of its own: it stays with
    those through which this very account has come in, as far as sessions tell (a week). Whoever is
    left out is bound anew by the verified address, at the next sign-in.
    """
    db = schema_editor.connection.alias
    if schema_editor.connection.vendor == "postgresql":
        # Rows that wait for their foreign keys to be checked forbid the changes that come after.
        schema_editor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        schema_editor.execute("DROP FUNCTION IF EXISTS lens_memberships(uuid)")
    identities = apps.get_model("orgs", "Identity").objects.using(db)
    before = sorted(identities.all(), key=lambda row: str(row.last_login_at or ""), reverse=True)
    kept = [row for old in before for row in _by_provider(apps, db, old)]
    newest = {(row.idp_id, row.user_id): row for row in reversed(kept)}
    identities.all().delete()
    identities.bulk_create(newest.values())


def _by_provider(apps, db, old):
    model = apps.get_model("orgs", "Identity")
    providers = apps.get_model("orgs", "IdentityProvider").objects.using(db)
    members = apps.get_model("orgs", "Membership").objects.using(db).filter(user=old.user_id)
    sessions = apps.get_model("orgs", "UserSession").objects.using(db)
    at_issuer = list(providers.filter(issuer=old.issuer))
    for idp in at_issuer:
        came = sessions.filter(idp=idp.pk, user=old.user_id, subject=old.subject)
        if members.filter(org=idp.org_id).exists() and (len(at_issuer) == 1 or came.exists()):
            yield model(
                org_id=idp.org_id,
                idp_id=idp.pk,
                user_id=old.user_id,
                subject=old.subject,
                issuer=old.issuer,
                last_login_at=old.last_login_at,
                created_at=old.created_at,
            )


class Migration(migrations.Migration):

    dependencies = [
        ('orgs', '0005_idempotent_requests'),
    ]

    operations = [
        migrations.RemoveConstraint(
            model_name='identity',
            name='identity_issuer_subject',
        ),
        migrations.AddField(
            model_name='identity',
            name='idp',
            field=models.ForeignKey(null=True, on_delete=django.db.models.deletion.CASCADE, related_name='identities', to='orgs.identityprovider'),
        ),
        migrations.AddField(
            model_name='identity',
            name='org',
            field=models.ForeignKey(editable=False, null=True, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='orgs.organization', verbose_name='organization'),
        ),
        migrations.RunPython(keep_what_is_known, migrations.RunPython.noop),
        migrations.AlterField(
            model_name='identity',
            name='idp',
            field=models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='identities', to='orgs.identityprovider'),
        ),
        migrations.AlterField(
            model_name='identity',
            name='org',
            field=models.ForeignKey(editable=False, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='orgs.organization', verbose_name='organization'),
        ),
        migrations.RemoveField(
            model_name='identity',
            name='issuer',
        ),
        migrations.AddConstraint(
            model_name='identity',
            constraint=models.UniqueConstraint(fields=('idp', 'subject'), name='identity_subject_once'),
        ),
        migrations.AddConstraint(
            model_name='identity',
            constraint=models.UniqueConstraint(fields=('idp', 'user'), name='identity_user_once'),
        ),
    ]

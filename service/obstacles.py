"""What else keeps the service from starting, found out without changing anything."""

from service.errors import DatabaseError, KaryonError
from service.inference.repository import ModelRepository
from service.provenance.keys import check_keyring
from service.records.database import SQLITE_FILE, Database, SchemaBehindError
from service.server import refuse_open_door
from service.settings import Settings


def find_obstacles(settings: Settings, repository: ModelRepository) -> list[str]:
    """Return why the service would not start with models that are sound, one sentence each.

    Nothing is made, migrated or signed: whoever asks may be another user than the service's.

    Args:
        settings: The service's.
        repository: The loaded models.
    """
    found = [refusal] if (refusal := refuse_open_door(settings)) else []
    try:
        if settings.shadow_model is not None:
            repository.get(settings.shadow_model)
        check_keyring(settings.data_dir, settings.signing_key)
    except KaryonError as error:
        found.append(str(error))
    url = settings.database_url
    if settings.records and (url is not None or (settings.data_dir / SQLITE_FILE).exists()):
        try:
            Database.open(
                None if url is None else url.get_secret_value(), settings.data_dir, migrate=False
            ).close()
        except SchemaBehindError as error:
            if not settings.migrate:
                found.append(str(error))
        except DatabaseError as error:
            found.append(str(error))
    return found

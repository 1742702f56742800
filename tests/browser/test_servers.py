"""Both servers are for this machine alone: a page elsewhere that makes a browser ask them under its own name (DNS
rebinding) gets nothing."""
import pytest
from browser_servers import listening, status

PAGES = dict(lab='/api', ui='/') # pages that need no password


@pytest.mark.parametrize('name', PAGES)
def test_server_is_for_this_machine_alone(name, request):
    _, port, process_id = request.getfixturevalue(name)
    assert listening(process_id) == {'127.0.0.1'}
    assert status(port, PAGES[name], f'127.0.0.1:{port}') == 200, 'the owner is let in'
    assert status(port, PAGES[name], f'localhost:{port}') == 200, 'under both names'
    assert status(port, PAGES[name], 'evil.example') == 403
    assert status(port, PAGES[name], f'evil.example:{port}') == 403

from __future__ import annotations

from unit.store.disk_trees import place_of_nobody, python


def test_a_shelf_that_cannot_be_removed_is_left_to_the_next_process() -> None:
    code = """
import os, sys
from pathlib import Path
from nixfetch.store.links import Links, open_links
from nixfetch.store.offers import Offers
from unit.store.disk_trees import become_nobody
become_nobody()
place = Path(sys.argv[1])
(place / "file").write_bytes(b"")
fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
links = Links(open_links(fd))
named = []
offers = Offers(fd, links, "0" * 32, announce=named.extend)
offers.give("name", dir_fd=fd, source=b"file")
offers.turn_over()
place.chmod(0o500)
offers.publish()
place.chmod(0o700)
print((place / ".links/name").exists(), [(place / name).exists() for name in named])
print(offers.close())
"""
    with place_of_nobody() as place:
        assert python(code, place).splitlines() == ["True [True]", "False"]


def test_a_shelf_that_cannot_be_opened_goes_at_once() -> None:
    code = """
import errno, os, resource, sys
from pathlib import Path
from nixfetch.store.links import Links, open_links
from nixfetch.store.offers import Offers
place = Path(sys.argv[1])
(place / "file").write_bytes(b"")
fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
links = Links(open_links(fd))
named = []
offers = Offers(fd, links, "0" * 32, announce=named.extend)
resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
try:
    offers.give("name", dir_fd=fd, source=b"file")
except OSError as error:
    print(error.errno == errno.EMFILE, len(named), (place / named[0]).exists())
print(offers.close())
"""
    with place_of_nobody() as place:
        assert python(code, place).splitlines() == ["True 1 False", "True"]

"""Whether everybody can use a page."""

from typing import Any

from axe_playwright_python.sync_playwright import Axe


def list_barriers(page: Any) -> list[str]:
    """What keeps people from using a page, by axe-core, on a phone and a wide screen, light and dark."""
    found = []
    for width in (390, 1440):
        for scheme in ("light", "dark"):
            page.set_viewport_size({"width": width, "height": 900})
            page.emulate_media(color_scheme=scheme)
            for rule in Axe().run(page).response["violations"]:
                if rule["impact"] in ("serious", "critical"):
                    found += [f"{width} {scheme} {rule['id']}: {node['html'][:160]}" for node in rule["nodes"]]
    return found

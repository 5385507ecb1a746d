gallery.prefixes({{ prefixes|compact }},{{ is_small|compact }});

gallery.prefixes({{ prefixes|compact }});

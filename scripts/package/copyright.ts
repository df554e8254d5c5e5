/** The copyright file of the package: of banger, and of everything inside its executable. */

/** A whole Apache licence, whose text every Debian system has: packages refer to that. */
const APACHE = /^[ \t]*Apache License\n[ \t]*Version 2\.0, January 2004\n[\s\S]*?END OF TERMS AND CONDITIONS[^\n]*$/gm;
const APACHE_REFERENCE =
  '  On Debian systems the text of the Apache License, Version 2.0, is in\n  /usr/share/common-licenses/Apache-2.0.';

/**
 * @param bundled licences of Node and the packages inside, as dist/LICENSES has them
 * @param musl copyright of the C library in fcqemu-vsock
 */
export function copyrightText(bundled: string, musl: string): string {
  return [
    'banger: persistent Firecracker microVMs with a name.',
    '',
    'Copyright 2026 the authors of banger.',
    '',
    'Licensed under the Apache License, Version 2.0. On Debian systems its text',
    'is in /usr/share/common-licenses/Apache-2.0.',
    '',
    bundled.replace(APACHE, APACHE_REFERENCE).trimEnd(),
    '',
    '='.repeat(78),
    'musl, in fcqemu-vsock',
    '='.repeat(78),
    '',
    musl.trimEnd(),
    '',
  ].join('\n');
}

/** Environment and paths are read in one place, the configuration: what else names a path of the host is in this table. */
import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { describe, it } from 'node:test';

const SRC = resolve(import.meta.dirname, '../src');

/** The kernel's own interfaces are at the same place on every Linux. */
const KERNEL = /^\/(proc|sys|dev)(\/|$)/;

/** Files, or rooms with `/` at the end, that may name other absolute paths, and why. */
const MAY_NAME_PATHS: Record<string, string> = {
  'config/': 'built-in places of banger itself, each of which a setting replaces',
  'system/os-release.ts': 'os-release(5) is there by standard',
  'system/host-facts.ts': 'directories of programs for administrators, added to PATH',
  'system/privilege.ts': 'where sudo looks programs up',
  'network/resolvers.ts': 'files of resolvers, at the places their own documents name',
  'dns/': 'files of resolvers, at the places their own documents name',
  'bundle/': 'places inside a root file system, and of apt',
  'image/': 'places inside a root file system',
  'oci/skopeo.ts': 'where skopeo itself looks for a policy',
  'guest/': 'places inside a guest',
  'storage/seed-drive.ts': 'places inside a guest',
  'control/': 'places inside a guest',
  'state/database.ts': 'places inside a guest',
  'core/guest-process.ts': 'places inside a guest',
  'core/boot-words.ts': 'places inside a guest',
  'core/user-data.ts': 'places inside a guest',
  'core/work-mount.ts': 'places inside a guest',
  'cli/shared/vm-options.ts': 'places inside a guest',
  'cli/shared/run-copies.ts': 'places inside a guest',
  'cli/commands/daemon/install.ts': 'systemd looks for units of the machine there',
};

/** Who may look at the environment of the process itself; everybody else is given what it needs of it. */
const MAY_READ_ENVIRONMENT = new Set(['system/runner.ts']);

/** Where a path literal begins: in quotes, or in a template that begins with it. */
const PATH_LITERAL =
  /['"`](\/(?:etc|usr|var|run|tmp|root|home|opt|bin|sbin|lib|boot|srv|mnt|proc|sys|dev)(?=[/'"`])[^'"`\s]*)/g;

const files = readdirSync(SRC, { recursive: true, encoding: 'utf8' }).filter((name) => name.endsWith('.ts'));

/** Code without its comments, in which examples may stand. */
function codeOf(file: string): string {
  return readFileSync(join(SRC, file), 'utf8').replace(/\/\*[\s\S]*?\*\/|(?<=^|\s)\/\/.*$/gm, '');
}

describe('the sources', () => {
  it('read the environment of the process in bin/ only, and pass it on', () => {
    const reading = files.filter((file) => /\bprocess\.(env|cwd)\b|\bhomedir\(/.test(codeOf(file)));
    assert.deepEqual(new Set(reading), MAY_READ_ENVIRONMENT);
  });

  it('name paths of the host where the table says so, and nowhere else', () => {
    const wrong: string[] = [];
    for (const file of files) {
      if (Object.keys(MAY_NAME_PATHS).some((place) => (place.endsWith('/') ? file.startsWith(place) : file === place)))
        continue;
      for (const [, path = ''] of codeOf(file).matchAll(PATH_LITERAL)) {
        if (!KERNEL.test(path)) wrong.push(`${file}: ${path}`);
      }
    }
    assert.deepEqual(wrong, []);
  });
});

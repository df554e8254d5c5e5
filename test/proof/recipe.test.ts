import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { hostPackages } from './host-files.ts';

const MAKEFILE = readFileSync(join(import.meta.dirname, '../../Makefile'), 'utf8').replaceAll('\\\n', ' ');

/** Packages of a variable that lists `program:package` pairs. */
function packagesOf(variable: string): string[] {
  const line = new RegExp(`^${variable} := (.*)$`, 'm').exec(MAKEFILE)?.[1] ?? '';
  return line
    .split(/\s+/)
    .filter(Boolean)
    .map((pair) => pair.split(':')[1] ?? '');
}

/** It has another busybox, and no host test asks a registry, signs anything or reads a package or manual. */
const LEFT_OUT = [
  ...['npm', 'busybox', 'docker-registry', 'apache2-utils', 'apparmor', 'gnupg', 'umoci', 'attr'],
  ...['openssl', 'cpio', 'man-db', 'groff-base', 'rpm', 'dpkg-dev'],
];

describe('the image of the rig', () => {
  it('has every package that the Makefile installs, but for those that no host test asks for', () => {
    const packages = hostPackages();
    const needed = [...packagesOf('NEEDED'), ...packagesOf('TEST_NEEDED')].filter((name) => !LEFT_OUT.includes(name));
    assert.ok(needed.includes('qemu-system-x86') && needed.includes('bind9-dnsutils'), needed.join(' '));
    assert.deepEqual(
      needed.filter((name) => !packages.includes(name)),
      [],
    );
    assert.ok(packages.includes('busybox-static'));
  });
});

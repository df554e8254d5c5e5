/** What is held of an image while its layers become a root file system. */
import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { loadConfig } from '../../../src/config/load.ts';
import { flattenInto } from '../../../src/control/images/flatten.ts';
import type { ImportHost } from '../../../src/control/images/sources.ts';
import type { Progress } from '../../../src/control/operations.ts';
import { lacking } from '../../bundle/sample-bundle.ts';
import { hostSystem } from '../../support/host-system.ts';
import { type RawEntry, rawTar, sha256 } from '../../support/oci-image.ts';
import { tempDir } from '../../support/temp-dir.ts';

const MIB = 1024 * 1024;

describe('the databases of package managers in an image', { skip: lacking('mke2fs', 'e2fsck') }, () => {
  it('are held as far as there is room for all of them together', async (t) => {
    const dir = await tempDir(t);
    const env = { ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin`, HOME: dir, BANGER_HOME: dir };
    const { config } = await loadConfig({ env, uid: 0 });
    // each as large as one may be, and nearly all of it a hole
    const database = (name: string): RawEntry => {
      const data = `Package: ${name}\nStatus: install ok installed\nVersion: 1\nArchitecture: all\n\n`;
      const pax = { 'GNU.sparse.map': `0,${data.length}`, 'GNU.sparse.size': String(60 * MIB) };
      return { path: `var/lib/dpkg/status.d/${name}`, data, pax };
    };
    const tar = rawTar(['one', 'two', 'three'].map(database));
    const path = join(dir, 'layer');
    await writeFile(path, tar);
    const layers = [{ path, digest: sha256(tar), diffId: sha256(tar), size: tar.length }];
    const warnings: string[] = [];
    const progress: Progress = {
      step: () => {},
      report: () => {},
      line: () => {},
      warn: (message) => void warnings.push(message),
    };
    const host = { config, system: hostSystem(env) } as unknown as ImportHost;
    const work = { host, progress, signal: new AbortController().signal };
    await flattenInto(work, layers, join(dir, 'rootfs'), { limitBytes: 2 ** 30 });
    assert.match(warnings.join('\n'), /list of packages is incomplete: .* have more than 128 MiB together/);
  });
});

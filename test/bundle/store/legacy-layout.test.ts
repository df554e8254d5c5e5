import assert from 'node:assert/strict';
import { mkdir, rename, rm, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { adoptBundle, loadBundle } from '../../../src/bundle/store/legacy-layout.ts';
import { verifyBundle } from '../../../src/bundle/store/verify.ts';
import { tempDir } from '../../support/temp-dir.ts';
import { bundleFiles, lacking, RELEASE, sampleBundle } from '../sample-bundle.ts';

describe('a directory without bundle.json', { skip: lacking('mke2fs') }, () => {
  it('loads by its file names, with a notice that names the command', async (t) => {
    const dir = join(await tempDir(t), 'My Bundle');
    await bundleFiles(dir);
    await mkdir(join(dir, 'helpers'));
    await writeFile(join(dir, 'helpers/verify.sh'), '#!/bin/bash\n');
    await writeFile(join(dir, 'customize.sh'), '#!/bin/bash\n');
    const bundle = await loadBundle(dir);
    assert.equal(bundle.legacy, true);
    assert.match(bundle.notice ?? '', /banger bundle adopt/);
    assert.equal(bundle.manifest.name, 'my-bundle');
    assert.equal(bundle.manifest.arch, 'x86_64');
    assert.equal(bundle.kernel, join(dir, 'vmlinux'));
    assert.equal(bundle.modules, join(dir, 'modules', RELEASE));
    assert.deepEqual(bundle.manifest.helpers, ['customize.sh', 'helpers/verify.sh']);
  });

  it('may call its kernel vmlinux.bin and keep modules in lib/modules or in modules itself', async (t) => {
    const dir = join(await tempDir(t), 'b');
    await bundleFiles(dir);
    await rename(join(dir, 'vmlinux'), join(dir, 'vmlinux.bin'));
    await mkdir(join(dir, 'lib'));
    await rename(join(dir, 'modules'), join(dir, 'lib/modules'));
    const bundle = await loadBundle(dir);
    assert.equal(bundle.kernel, join(dir, 'vmlinux.bin'));
    assert.equal(bundle.modules, join(dir, 'lib/modules', RELEASE));
    await rename(join(dir, 'lib/modules', RELEASE), join(dir, 'modules'));
    assert.equal((await loadBundle(dir)).modules, join(dir, 'modules'));
  });

  it('needs no modules and no package list', async (t) => {
    const dir = join(await tempDir(t), 'b');
    await bundleFiles(dir);
    await rm(join(dir, 'modules'), { recursive: true });
    await rm(join(dir, 'rootfs.packages'));
    const bundle = await loadBundle(dir);
    assert.equal(bundle.modules, undefined);
    assert.equal(bundle.packages, undefined);
  });

  it('is no bundle when files are missing, all of which are named', async (t) => {
    const dir = join(await tempDir(t), 'b');
    await bundleFiles(dir);
    await rm(join(dir, 'vmlinux'));
    await rm(join(dir, 'rootfs.ext4'));
    await assert.rejects(loadBundle(dir), { code: 'not_found', message: /vmlinux or vmlinux.bin, rootfs.ext4/ });
    await assert.rejects(loadBundle(join(dir, 'gone')), { code: 'not_found', message: /no directory/ });
  });

  it('may not have its files elsewhere through links', async (t) => {
    const dir = await tempDir(t);
    await bundleFiles(join(dir, 'b'));
    await rename(join(dir, 'b/rootfs.ext4'), join(dir, 'rootfs.ext4'));
    await symlink('../rootfs.ext4', join(dir, 'b/rootfs.ext4'));
    await assert.rejects(loadBundle(join(dir, 'b')), /outside the bundle/);
  });

  it('becomes an ordinary bundle when adopted, whose sums then count', async (t) => {
    const dir = join(await tempDir(t), 'b');
    await bundleFiles(dir);
    const adopted = await adoptBundle(dir);
    assert.equal(adopted.legacy, false);
    assert.equal((await loadBundle(dir)).notice, undefined);
    assert.equal((await verifyBundle(dir, { arch: 'x86_64' })).ok, true);
    await writeFile(join(dir, 'modules', RELEASE, 'kernel/a.ko'), 'another');
    assert.equal((await verifyBundle(dir, { arch: 'x86_64' })).ok, false);
  });

  it('with a bundle.json cannot be adopted again, nor does a broken one fall back to the names', async (t) => {
    const dir = join(await tempDir(t), 'b');
    await sampleBundle(dir);
    await assert.rejects(adoptBundle(dir), { code: 'conflict' });
    await writeFile(join(dir, 'bundle.json'), 'broken');
    await assert.rejects(loadBundle(dir), { code: 'corrupt' });
  });
});

import assert from 'node:assert/strict';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { resolveBuild } from '../../../src/control/builds/plan.ts';
import type { Host } from '../../../src/control/host.ts';
import { lacking } from '../../bundle/sample-bundle.ts';
import { imagePlace } from '../images/image-host.ts';

const skip = lacking('mke2fs', 'e2fsck', 'debugfs') || (process.arch !== 'x64' && 'the sample kernel is for x86-64');

describe('the base of an image build', { skip }, () => {
  it('is known by the image’s digest; that of an older banger gives the keys it gave to that one', async (t) => {
    const place = await imagePlace(t);
    const tree = join(place.dir, 'tree');
    await mkdir(join(tree, 'usr/sbin'), { recursive: true });
    await writeFile(join(tree, 'usr/sbin/sshd'), '');
    await place.host.system.runner.run(['mke2fs', '-q', '-F', '-t', 'ext4', '-d', tree, place.rootfs, '2M']);
    const { digest, id } = await place.import({ name: 'dev' });
    const host = place.host as unknown as Host;
    const baseNow = async () => (await resolveBuild(host, { directory: place.dir, name: 'x', base: 'dev' })).base;
    const digestOfBase = async () => (await baseNow()).digest;
    assert.equal((await baseNow()).boot.imageId, id, 'a VM that is kept boots from it');
    assert.equal(await digestOfBase(), digest);
    assert.match(digest, /^fsverity-sha256:[0-9a-f]{64}$/);
    place.database.prepare('UPDATE images SET digest = ?').run(`sha256:${'ab'.repeat(32)}`);
    assert.equal(await digestOfBase(), 'ab'.repeat(32));
  });

  it('reads no file outside its directory unless that is allowed, and says which', async (t) => {
    const place = await imagePlace(t);
    const host = place.host as unknown as Host;
    await mkdir(join(place.dir, 'recipe'));
    const recipe = join(place.dir, 'recipe/evil.toml');
    await writeFile(join(place.dir, 'secret'), 'root is here');
    await writeFile(recipe, 'package_files = ["../secret"]\n');
    const refused = await resolveBuild(host, { directory: place.dir, recipe }).catch((error) => error);
    assert.match(refused.message, /outside its directory .*recipe: \.\.\/secret\.$/);
    assert.match(refused.hint, /--allow-outside/);
    await assert.rejects(
      resolveBuild(host, { directory: place.dir, recipe, allowOutside: true }),
      /is no package name/,
    );
  });
});

import assert from 'node:assert/strict';
import { mkdir, readFile, rm, symlink, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { parseManifest, readBundle, readManifest, writeManifest } from '../../../src/bundle/store/manifest.ts';
import { bundleJsonSchema } from '../../../src/bundle/store/manifest-schema.ts';
import { tempDir } from '../../support/temp-dir.ts';
import { lacking, RELEASE, runner, sampleBundle } from '../sample-bundle.ts';

/** A sample bundle whose bundle.json was edited by hand. */
async function edited(t: TestContext, edit: (json: Record<string, unknown>) => void): Promise<string> {
  const dir = join(await tempDir(t), 'b');
  await sampleBundle(dir);
  const path = join(dir, 'bundle.json');
  const json = JSON.parse(await readFile(path, 'utf8'));
  edit(json);
  await writeFile(path, JSON.stringify(json));
  return dir;
}

describe('bundle.json', { skip: lacking('mke2fs') }, () => {
  it('is read back as it was written, with every path absolute', async (t) => {
    const dir = await tempDir(t);
    const manifest = await sampleBundle(join(dir, 'b'));
    const bundle = await readBundle(join(dir, 'b'));
    assert.deepEqual(bundle.manifest, manifest);
    assert.equal(bundle.kernel, join(dir, 'b/vmlinux'));
    assert.equal(bundle.modules, join(dir, 'b/modules', RELEASE));
    assert.equal(bundle.packages, join(dir, 'b/rootfs.packages'));
    assert.equal(bundle.legacy, false);
  });

  it('may live in a directory reached through a link', async (t) => {
    const dir = await tempDir(t);
    await sampleBundle(join(dir, 'b'));
    await symlink('b', join(dir, 'default'));
    assert.equal((await readBundle(join(dir, 'default'))).kernel, join(dir, 'b/vmlinux'));
  });

  it('names no file by what every object has: such a name would have a checksum without one', async (t) => {
    const manifest = await sampleBundle(join(await tempDir(t), 'b'));
    for (const rootfs of ['constructor', '__proto__', 'toString']) {
      await assert.rejects(parseManifest(JSON.stringify({ ...manifest, rootfs }), 'bundle.json'), {
        code: 'corrupt',
        message: /rootfs.*is a name that every object has/,
      });
    }
  });

  it('is missing: the error names the command that makes a bundle', async (t) => {
    await assert.rejects(readBundle(await tempDir(t)), { code: 'not_found', hint: /banger bundle build/ });
  });

  it('is refused when it is not JSON, a directory, or a list', async (t) => {
    const dir = await tempDir(t);
    const path = join(dir, 'bundle.json');
    await writeFile(path, '{"schema": 1,');
    await assert.rejects(readManifest(path), { code: 'corrupt', message: `${path} is not JSON.` });
    await writeFile(path, '[]');
    await assert.rejects(readManifest(path), { code: 'corrupt', message: /the file: / });
    await rm(path);
    await mkdir(path);
    await assert.rejects(readManifest(path), { code: 'corrupt', message: /cannot be read \(EISDIR\)/ });
  });

  it('of another version names the version this banger reads', async (t) => {
    const dir = await edited(t, (json) => Object.assign(json, { schema: 7, colour: 'red' }));
    await assert.rejects(readBundle(dir), {
      code: 'corrupt',
      message: /schema version 7; this banger reads version 1 or 2/,
      hint: /newer banger/,
    });
  });

  it('with wrong types is refused with the file and every wrong field', async (t) => {
    const dir = await edited(t, (json) => {
      json.kernel = 5;
      (json.defaults as Record<string, unknown>).memoryMib = 'much';
      (json.files as Record<string, unknown>).vmlinux = { sha256: 'abc', size: -1 };
    });
    await assert.rejects(readBundle(dir), (error: Error) => {
      for (const part of [join(dir, 'bundle.json'), '"kernel"', '"defaults.memoryMib"', '"files.vmlinux.sha256"']) {
        assert.ok(error.message.includes(part), `${part} in: ${error.message}`);
      }
      return true;
    });
  });

  it('with a checksum of no kind, or of two, is refused with the file it is of', async (t) => {
    for (const sum of [{ size: 1 }, { sha256: 'ab'.repeat(32), fsverity: 'ab'.repeat(32), size: 1 }]) {
      const dir = await edited(t, (json) => Object.assign(json.files as object, { 'rootfs.ext4': sum }));
      await assert.rejects(readBundle(dir), { code: 'corrupt', message: /field "files.rootfs.ext4(\.\w+)?": / });
    }
  });

  it('with an unknown field is refused with its name', async (t) => {
    const dir = await edited(t, (json) => Object.assign(json, { kernal: 'vmlinux' }));
    await assert.rejects(readBundle(dir), /"kernal"/);
  });

  it('that gives a file no checksum is refused with the field', async (t) => {
    const dir = await edited(t, (json) => {
      delete (json.files as Record<string, unknown>)['initrd.img'];
      json.trees = {};
    });
    await assert.rejects(readBundle(dir), /no checksum for initrd.*no checksum for modules/);
  });

  for (const [path, why] of [
    ['/etc/passwd', 'is absolute'],
    ['../vmlinux', 'leads out of the bundle'],
    ['modules/../../vmlinux', 'leads out of the bundle'],
    ['.', 'leads out of the bundle'],
  ] as const) {
    it(`refuses the path ${path}`, async (t) => {
      const dir = await edited(t, (json) => {
        const files = json.files as Record<string, unknown>;
        files[path] = files.vmlinux;
        json.kernel = path;
      });
      await assert.rejects(readBundle(dir), { code: 'corrupt', message: new RegExp(`field "kernel".*${why}`) });
    });
  }

  it('refuses a file and a directory that are links out of the bundle', async (t) => {
    const dir = await tempDir(t);
    await sampleBundle(join(dir, 'b'));
    await rm(join(dir, 'b/initrd.img'));
    await symlink('/etc/passwd', join(dir, 'b/initrd.img'));
    await assert.rejects(
      readBundle(join(dir, 'b')),
      /field "initrd": "initrd.img" is a link to \/etc\/passwd, outside/,
    );
    await sampleBundle(join(dir, 'c'));
    await rm(join(dir, 'c/modules'), { recursive: true });
    await symlink('/usr', join(dir, 'c/modules'));
    await mkdir(join(dir, 'outside'));
    await rm(join(dir, 'c/modules'));
    await symlink('../outside', join(dir, 'c/modules'));
    await mkdir(join(dir, 'outside', RELEASE));
    await assert.rejects(readBundle(join(dir, 'c')), /field "modules": .* outside the bundle/);
  });

  it('allows a link that stays inside', async (t) => {
    const dir = join(await tempDir(t), 'b');
    await sampleBundle(dir);
    await runner.run(['mv', join(dir, 'vmlinux'), join(dir, 'vmlinux-6.1')]);
    await symlink('vmlinux-6.1', join(dir, 'vmlinux'));
    assert.equal((await readBundle(dir)).kernel, join(dir, 'vmlinux-6.1'));
  });

  it('that names a missing file is refused with the field', async (t) => {
    const dir = join(await tempDir(t), 'b');
    await sampleBundle(dir);
    await rm(join(dir, 'rootfs.ext4'));
    await assert.rejects(readBundle(dir), { code: 'corrupt', message: /field "rootfs": "rootfs.ext4" does not exist/ });
  });

  it('that names a directory where a file belongs is refused', async (t) => {
    const dir = join(await tempDir(t), 'b');
    await sampleBundle(dir);
    await rm(join(dir, 'initrd.img'));
    await mkdir(join(dir, 'initrd.img'));
    await assert.rejects(readBundle(dir), /field "initrd": "initrd.img" is no regular file/);
  });

  it('notices a file that was cut short without reading it', async (t) => {
    const dir = join(await tempDir(t), 'b');
    await sampleBundle(dir);
    await truncate(join(dir, 'rootfs.ext4'), 4096);
    await assert.rejects(readBundle(dir), /"rootfs.ext4" has 4096 bytes instead of 1048576/);
  });

  it('is never written wrong', async (t) => {
    const dir = await tempDir(t);
    const manifest = await sampleBundle(join(dir, 'b'));
    await assert.rejects(writeManifest(dir, { ...manifest, kernel: '/boot/vmlinuz' }), { code: 'corrupt' });
  });
});

describe('the published JSON Schema', () => {
  it('is the one this banger reads by', async () => {
    const path = join(import.meta.dirname, '../../../docs/bundle.schema.json');
    const schema = bundleJsonSchema();
    if (process.env.UPDATE_BUNDLE_SCHEMA) await writeFile(path, JSON.stringify(schema));
    const hint =
      'write it anew: UPDATE_BUNDLE_SCHEMA=1 node --test test/bundle/store/manifest.test.ts; biome check --write docs';
    assert.deepEqual(JSON.parse(await readFile(path, 'utf8')), schema, hint);
  });
});

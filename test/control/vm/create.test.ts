/** What a new VM is refused before anything of it exists. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { createVm } from '../../../src/control/vm/create.ts';
import { BangerError } from '../../../src/errors.ts';
import { DISK_BYTES, OLD } from '../../support/mortal-disks.ts';
import { mortalHost } from '../../support/mortal-host.ts';
import { paced } from '../../support/pace.ts';
import { quietProgress } from '../../support/quiet-progress.ts';

const never = new AbortController().signal;
const shape = { image: OLD.name, rootDiskBytes: DISK_BYTES, workDiskBytes: 0 };

describe('a new VM', { timeout: paced(30_000) }, () => {
  it('of an image that runs nothing of its own is told no process, and is not made', async () => {
    await using place = await mortalHost();
    const { host } = place.daemon();
    const request = { name: 'job', ...shape, process: { user: 'app' } };
    const error = await createVm(host, request, quietProgress(), never).catch((thrown) => thrown);
    assert.ok(error instanceof BangerError, String(error));
    assert.match(error.message, new RegExp(`^process is for OCI images; ${OLD.name} is none`));
    assert.match(error.hint ?? '', /banger run job -- COMMAND/);
    assert.deepEqual(host.stores.vms.list(), []);
  });
});

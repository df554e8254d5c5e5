/** The private key banger logs in with: there, ours, and nobody else's to read, as OpenSSH demands. */
import { access, constants, stat } from 'node:fs/promises';
import { dirname } from 'node:path';
import { messageOf, systemCode } from '../../errors.ts';
import { pathExists } from '../../system/files.ts';
import { type Check, failed, ok, rootRepair } from '../check.ts';
import type { PreflightContext } from '../context.ts';
import { asRoot } from '../fixes.ts';

export const keysCheck: Check<PreflightContext> = {
  id: 'ssh.key',
  title: 'login key',
  async run({ clientKeyFile, uid }) {
    const lookedFor = `a key only this user may read at ${clientKeyFile}`;
    try {
      const { mode, uid: owner } = await stat(clientKeyFile);
      if (owner !== uid) {
        const fix = asRoot(`chown ${uid} ${clientKeyFile}`, uid);
        const repair = rootRepair('chown', String(uid), clientKeyFile);
        return failed(lookedFor, `User ${owner} owns the key.`, fix, repair);
      }
      const open = mode & 0o077;
      if (open !== 0) {
        const detail = `Others may read the key (mode ${(mode & 0o777).toString(8)}).`;
        const repair = { argv: ['chmod', '600', clientKeyFile], asRoot: false } as const;
        return failed(lookedFor, detail, `chmod 600 ${clientKeyFile}`, repair);
      }
      await access(clientKeyFile, constants.R_OK);
    } catch (error) {
      if (systemCode(error) === 'ENOENT') return ok(lookedFor, 'it is made when the daemon first starts');
      return failed(
        lookedFor,
        `The key cannot be read: ${messageOf(error)}`,
        asRoot(`chown -R ${uid} ${dirname(clientKeyFile)}`, uid),
      );
    }
    if (!(await pathExists(`${clientKeyFile}.pub`))) {
      const detail = `Its public half ${clientKeyFile}.pub is gone.`;
      return failed(lookedFor, detail, `ssh-keygen -y -f ${clientKeyFile} > ${clientKeyFile}.pub`);
    }
    return ok(lookedFor, clientKeyFile);
  },
};

/** Templates that are kept: what new VMs start from instead of booting. */
import { formatSize } from '../../units.ts';
import { type Check, notApplicable, ok, warning } from '../check.ts';
import type { PreflightContext } from '../context.ts';

export const templatesCheck: Check<PreflightContext> = {
  id: 'warm.templates',
  title: 'templates',
  async run({ templates }) {
    const lookedFor = 'templates that VMs can start from';
    const found = (await templates?.()) ?? [];
    if (found.length === 0) {
      return notApplicable(lookedFor, 'There are none yet; the daemon makes one after the first boot of an image.');
    }
    const room = formatSize(found.reduce((sum, { bytes }) => sum + bytes, 0));
    const useless = found.filter(({ misfits }) => misfits.length > 0);
    const [first] = useless;
    const count = `${found.length} ${found.length === 1 ? 'template' : 'templates'} (${room})`;
    if (first === undefined) return ok(lookedFor, count);
    const why = useless.map(({ image, misfits }) => `of ${image}: ${misfits.join(', ')}`).join('; ');
    return warning(
      lookedFor,
      `${count}, and no VM can start from ${useless.length === found.length ? 'any of them' : `${useless.length} of them`}: ${why}.`,
      'banger image prune',
    );
  },
};

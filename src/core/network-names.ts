/** Names that several bangers of one host tell their networks apart by. */

/**
 * The nftables table of one banger: each user has one, and one more for each home of its own.
 * @param instance 8 hexadecimal digits for a banger with a home of its own, else empty
 */
export function tableName(uid: number, instance: string): string {
  return ['banger', ...(uid === 0 ? [] : [`u${uid}`]), ...(instance === '' ? [] : [instance])].join('_');
}

/** Device that addresses of VMs which are asleep lead to, of one banger; named as those of VMs are. @param digits 8 hexadecimal ones of its table */
export function sleepDeviceName(digits: string): string {
  return `bgr-${digits}`;
}

/** VM whose device has that name; undefined for any other. */
export function vmOfTap(name: string): string | undefined {
  return /^bgr-([0-9a-f]{8})$/.exec(name)?.[1];
}

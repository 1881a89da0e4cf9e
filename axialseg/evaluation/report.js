// The slider's whole numbers show one layer; between two the upper one fades in.
for (const viewer of document.querySelectorAll('.viewer')) {
  const slider = viewer.querySelector('input');
  const images = viewer.querySelectorAll('img');
  const buttons = viewer.querySelectorAll('button');
  const show = () => {
    const value = Number(slider.value);
    images.forEach((image, n) => {
      if (n) image.style.opacity = Math.min(Math.max(value - n + 1, 0), 1);
    });
    buttons.forEach((button, n) => button.classList.toggle('on', Math.round(value) === n));
  };
  slider.addEventListener('input', show);
  buttons.forEach((button, n) => button.addEventListener('click', () => {
    slider.value = n;
    show();
  }));
  show();
}
